use caisson_netlink::Netlink;
use caisson_protocol::agent::{Interface, Neighbour, NextHop};

use super::super::test_namespace::TestNamespace;
use super::{is_of_interface, survey};

fn interfaces(namespace: &TestNamespace) -> Vec<Interface> {
    let look = || survey(&mut Netlink::open().unwrap()).unwrap();
    let found = namespace.0.run_blocking(look).unwrap();
    found.into_iter().map(|found| found.interface).collect()
}

fn v6(text: &str) -> Vec<u8> {
    text.parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets()
        .to_vec()
}

#[tokio::test]
async fn an_empty_namespace_has_nothing_for_the_guest() {
    let Some(namespace) = TestNamespace::new().await else {
        return;
    };
    namespace.run("ip link set lo up");
    assert_eq!(interfaces(&namespace), []);
}

#[tokio::test]
async fn an_interface_is_found_with_all_it_has() {
    let (Some(pod), Some(host)) = (TestNamespace::new().await, TestNamespace::new().await) else {
        return;
    };
    pod.connect("eth0", &host, "veth0");
    for line in [
        "ip link set eth0 address 02:ca:15:50:00:07 mtu 1400",
        "ip addr add 10.1.2.3/16 broadcast 10.1.255.255 dev eth0",
        "ip addr add 192.168.7.1 peer 192.168.7.2/32 dev eth0",
        "ip addr add fd00::3/64 dev eth0 nodad",
        "ip route add 169.254.1.1 dev eth0 scope link",
        "ip route add default via 169.254.1.1 dev eth0 metric 7 mtu 1300 advmss 1200",
        "ip route add 10.9.0.0/16 via 172.16.0.1 dev eth0 onlink src 10.1.2.3",
        "ip route add 10.8.0.0/16 via inet6 fd00::1 dev eth0",
        "ip route add 10.7.0.0/16 dev eth0 table 100",
        "ip route add unreachable 10.6.0.0/16",
        "ip -6 route add default via fd00::1 dev eth0",
        "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        "ip neigh add 169.254.1.2 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud stale",
    ] {
        pod.run(line);
    }
    let all = interfaces(&pod);
    let [interface] = all.as_slice() else {
        panic!("{all:?}");
    };
    assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1400));
    let addresses: Vec<_> = interface
        .addresses
        .iter()
        .filter(|address| address.scope == 0)
        .map(|a| {
            (
                a.address.clone(),
                a.prefix,
                a.peer.clone(),
                a.broadcast.clone(),
            )
        })
        .collect();
    assert_eq!(
        addresses,
        [
            (vec![10, 1, 2, 3], 16, vec![], vec![10, 1, 255, 255]),
            (vec![192, 168, 7, 1], 32, vec![192, 168, 7, 2], vec![]),
            (v6("fd00::3"), 64, vec![], vec![]),
        ]
    );
    let find = |ipv6: bool, destination: &[u8]| {
        let mut matching = interface
            .routes
            .iter()
            .filter(|route| route.ipv6 == ipv6 && route.destination == destination);
        let route = matching.next();
        assert!(matching.next().is_none());
        route.cloned()
    };
    let default = find(false, &[]).unwrap();
    assert_eq!(default.gateway, [169, 254, 1, 1]);
    assert_eq!(
        (default.metric, default.mtu, default.advmss),
        (7, 1300, 1200)
    );
    let onlink = find(false, &[10, 9, 0, 0]).unwrap();
    assert_eq!((onlink.onlink, onlink.source), (true, vec![10, 1, 2, 3]));
    assert_eq!(find(false, &[10, 8, 0, 0]).unwrap().gateway, v6("fd00::1"));
    assert_eq!(find(true, &[]).unwrap().gateway, v6("fd00::1"));
    // The kernel's own routes too; those of other tables not.
    assert_eq!(find(false, &[10, 1, 0, 0]).unwrap().scope, 253);
    assert_eq!(find(true, &v6("fd00::")).unwrap().prefix, 64);
    assert_eq!(find(false, &[10, 7, 0, 0]), None);
    assert_eq!(find(false, &[10, 6, 0, 0]), None);
    // First those without which the others lead nowhere.
    let gateways: Vec<_> = interface
        .routes
        .iter()
        .map(|r| !r.gateway.is_empty())
        .collect();
    assert!(gateways.is_sorted(), "{gateways:?}");
    let by_hand = Neighbour {
        address: vec![169, 254, 1, 1],
        mac: vec![0xee; 6],
        ..Default::default()
    };
    assert_eq!(interface.neighbours, [by_hand]);
}

#[tokio::test]
async fn of_several_next_hops_those_are_found_that_the_guest_has() {
    let (Some(pod), Some(host)) = (TestNamespace::new().await, TestNamespace::new().await) else {
        return;
    };
    pod.connect("eth0", &host, "veth0");
    pod.connect("net1", &host, "veth1");
    for line in [
        "ip addr add 10.1.0.2/24 dev eth0",
        "ip addr add 10.2.0.2/24 dev net1",
        "ip addr add fd00::3/64 dev eth0 nodad",
        "ip tuntap add tap0 mode tap",
        "ip link set tap0 up",
        "ip addr add 10.3.0.2/24 dev tap0",
        "ip route add 10.9.0.0/16 nexthop via 10.3.0.1 dev tap0 \
         nexthop via 10.1.0.1 dev eth0 nexthop via 10.2.0.1 dev net1 weight 3 onlink",
        "ip -6 route add fd09::/64 nexthop via fd00::1 dev eth0 nexthop via fd00::2 dev eth0",
        "ip route add 10.8.0.0/16 nexthop via 10.3.0.1 dev tap0 nexthop via 10.3.0.5 dev tap0",
    ] {
        pod.run(line);
    }
    let all = interfaces(&pod);
    let of = |interface: usize| {
        let routes = all.get(interface).unwrap().routes.iter();
        let several = routes.filter(|route| !route.next_hops.is_empty());
        several
            .map(|route| (route.destination.clone(), route.next_hops.clone()))
            .collect::<Vec<_>>()
    };
    let hop = |interface: &str, gateway: &[u8], weight, onlink| NextHop {
        interface: interface.to_owned(),
        gateway: gateway.to_vec(),
        onlink,
        weight,
        ..Default::default()
    };
    let four = vec![
        hop("eth0", &[10, 1, 0, 1], 1, false),
        hop("net1", &[10, 2, 0, 1], 3, true),
    ];
    let six = vec![
        hop("eth0", &v6("fd00::1"), 1, false),
        hop("eth0", &v6("fd00::2"), 1, false),
    ];
    let expected = [(vec![10, 9, 0, 0], four), (v6("fd09::"), six)];
    assert_eq!(of(0), expected);
    assert_eq!(of(1), []);
}

#[tokio::test]
async fn what_cannot_be_the_guests_stays_where_it_is() {
    let (Some(pod), Some(host)) = (TestNamespace::new().await, TestNamespace::new().await) else {
        return;
    };
    pod.connect("net1", &host, "veth1");
    pod.connect("part", &host, "veth2");
    for line in [
        "ip link set net1 address 02:ca:15:50:00:08",
        "ip link add down type veth peer name unused",
        "ip link add br0 type bridge",
        "ip link set br0 up",
        "ip link set part master br0",
        "ip tuntap add tap0 mode tap",
        "ip link set tap0 up",
        "ip tuntap add tun0 mode tun",
        "ip link set tun0 up",
    ] {
        pod.run(line);
    }
    let names: Vec<_> = interfaces(&pod).into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["net1", "br0"]);
}

#[test]
fn a_hardware_address_is_that_of_one_interface() {
    assert!(is_of_interface(&[2, 0, 0, 0, 0, 1]));
    for mac in [&[][..], &[0; 6], &[2, 0, 0, 0, 1], &[1, 0, 0, 0, 0, 1]] {
        assert!(!is_of_interface(mac), "{mac:?}");
    }
}
