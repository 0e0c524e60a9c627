use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use super::Netlink;

#[test]
fn the_loopback_interface_is_listed() {
    let mut netlink = Netlink::open().unwrap();
    // Twice, as the second answer must not be taken for the first.
    for _ in 0..2 {
        let links = netlink.links().unwrap();
        assert!(links.iter().any(|link| link.header.index == 1), "{links:?}");
    }
}

#[test]
fn a_refusal_carries_its_number_and_the_conversation_goes_on() {
    let mut netlink = Netlink::open().unwrap();
    let mut nowhere = LinkMessage::default();
    nowhere.header.index = i32::MAX.cast_unsigned();
    let refused = netlink
        .change(RouteNetlinkMessage::DelLink(nowhere), 0)
        .unwrap_err();
    // ENODEV for root, EPERM for others.
    assert!(matches!(refused.errno(), Some(19 | 1)), "{refused}");
    assert!(!netlink.links().unwrap().is_empty());
}
