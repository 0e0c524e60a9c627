//! On interfaces of this machine, in a network namespace of its own.
#![allow(unsafe_code)]

use std::process::Command;
use std::thread;

use caisson_netlink::Netlink;
use caisson_protocol::agent::{Address, Interface, Neighbour, NextHop, Route};
use rustix::thread::UnshareFlags;

use super::configure;
use super::device::Device;
use crate::error::AgentError;

/// Runs a test in a network namespace with interfaces called `eth0` and `eth1`, down and bare.
fn in_namespace(test: impl FnOnce(Device, Device) + Send + 'static) {
    let test = thread::spawn(|| {
        // SAFETY: only the network namespace becomes the thread's own.
        let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
        if let Err(error) = unshared {
            println!("skipped: no network namespace can be made ({error}), needs root");
            return;
        }
        let device = |name: &str, index| Device {
            index,
            name: name.to_owned(),
            is_up: false,
        };
        ip("link add eth0 index 11 type veth peer eth1 index 12");
        test(device("eth0", 11), device("eth1", 12));
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip ARGUMENTS…`, what it prints.
#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_shows(arguments: &str, words: &[&str]) {
    let shown = ip(arguments);
    for word in words {
        assert!(
            shown.contains(word),
            "ip {arguments} shows no {word:?}:\n{shown}"
        );
    }
}

fn address(address: &[u8], prefix: u32) -> Address {
    Address {
        address: address.to_vec(),
        prefix,
        valid: u32::MAX,
        preferred: u32::MAX,
        ..Default::default()
    }
}

fn v6(last: u8) -> Vec<u8> {
    [&[0xfd, 0][..], &[0; 13], &[last]].concat()
}

fn route(destination: &[u8], prefix: u32, gateway: &[u8]) -> Route {
    Route {
        ipv6: destination.len() == 16 || gateway.len() == 16,
        destination: destination.to_vec(),
        prefix,
        gateway: gateway.to_vec(),
        protocol: 4,
        ..Default::default()
    }
}

#[test]
fn an_interface_gets_its_name_mtu_addresses_routes_and_neighbours() {
    in_namespace(|device, _| {
        let interface = Interface {
            name: "net1".to_owned(),
            mtu: 1400,
            addresses: vec![
                Address {
                    broadcast: vec![10, 1, 255, 255],
                    ..address(&[10, 1, 2, 3], 16)
                },
                address(&v6(3), 64),
            ],
            routes: vec![
                Route {
                    scope: 253,
                    ..route(&[169, 254, 1, 1], 32, &[])
                },
                Route {
                    metric: 7,
                    mtu: 1300,
                    ..route(&[], 0, &[169, 254, 1, 1])
                },
                route(&v6(0), 64, &[]),
                route(&[], 0, &v6(1)),
                Route {
                    onlink: true,
                    source: vec![10, 1, 2, 3],
                    ..route(&[10, 9, 0, 0], 16, &[172, 16, 0, 1])
                },
                Route {
                    ipv6: false,
                    ..route(&[10, 8, 0, 0], 16, &v6(1))
                },
            ],
            neighbours: vec![Neighbour {
                address: vec![169, 254, 1, 1],
                mac: vec![0xee; 6],
                ..Default::default()
            }],
            ..Default::default()
        };
        // Without its other end the routes would be shown as down.
        ip("link set eth1 up");
        let mut netlink = Netlink::open().unwrap();
        configure(&mut netlink, &[(device.clone(), &interface)]).unwrap();
        assert_shows(
            "address show net1",
            &[
                "mtu 1400",
                "inet 10.1.2.3/16 brd 10.1.255.255",
                "inet6 fd00::3/64 scope global nodad",
            ],
        );
        let shown = ip("address show net1");
        assert!(
            !shown.contains("tentative") && !shown.contains("fe80"),
            "{shown}"
        );
        assert_shows(
            "-4 route",
            &[
                "169.254.1.1 dev net1 proto static scope link",
                "default via 169.254.1.1 dev net1 proto static metric 7 mtu 1300",
                "10.9.0.0/16 via 172.16.0.1 dev net1 proto static src 10.1.2.3 onlink",
                "10.8.0.0/16 via inet6 fd00::1 dev net1",
            ],
        );
        assert!(
            !ip("-4 route").contains("10.1.0.0/16"),
            "the kernel made a route"
        );
        assert_shows(
            "-6 route",
            &["fd00::/64 dev net1", "default via fd00::1 dev net1"],
        );
        assert_shows(
            "neigh",
            &["169.254.1.1 dev net1 lladdr ee:ee:ee:ee:ee:ee PERMANENT"],
        );

        // Once more, with something new.
        let more = Interface {
            addresses: vec![address(&[10, 1, 2, 3], 16), address(&[10, 1, 2, 4], 16)],
            ..interface
        };
        let device = Device {
            name: "net1".to_owned(),
            is_up: true,
            ..device
        };
        configure(&mut netlink, &[(device, &more)]).unwrap();
        assert_shows(
            "address show net1",
            &["10.1.2.3/16", "10.1.2.4/16", "fd00::3/64"],
        );
    });
}

#[test]
fn names_may_go_crosswise() {
    in_namespace(|first, second| {
        let named = |name: &str, last| Interface {
            name: name.to_owned(),
            mtu: 1500,
            addresses: vec![address(&[10, 0, 0, last], 24)],
            ..Default::default()
        };
        let (one, two) = (named("eth1", 1), named("eth0", 2));
        let mut netlink = Netlink::open().unwrap();
        configure(&mut netlink, &[(first, &one), (second, &two)]).unwrap();
        assert_shows("address show eth1", &["11: eth1", "10.0.0.1/24"]);
        assert_shows("address show eth0", &["12: eth0", "10.0.0.2/24"]);
    });
}

#[test]
fn a_route_may_have_next_hops_through_several_interfaces() {
    in_namespace(|first, second| {
        let hop = |interface: &str, gateway: &[u8], weight| NextHop {
            interface: interface.to_owned(),
            gateway: gateway.to_vec(),
            weight,
            ..Default::default()
        };
        let one = Interface {
            name: "eth0".to_owned(),
            mtu: 1500,
            addresses: vec![address(&[10, 0, 0, 2], 24), address(&v6(2), 64)],
            routes: vec![
                Route {
                    next_hops: vec![
                        hop("eth0", &[10, 0, 0, 1], 1),
                        hop("eth1", &[10, 0, 1, 1], 3),
                    ],
                    ..route(&[10, 9, 0, 0], 16, &[])
                },
                Route {
                    next_hops: vec![hop("eth0", &v6(1), 1), hop("eth0", &v6(7), 2)],
                    ..route(&[0xfd; 16], 128, &[])
                },
                Route {
                    scope: 253,
                    ..route(&[10, 0, 0, 0], 24, &[])
                },
                route(&v6(0), 64, &[]),
            ],
            ..Default::default()
        };
        let two = Interface {
            name: "eth1".to_owned(),
            mtu: 1500,
            addresses: vec![address(&[10, 0, 1, 2], 24)],
            routes: vec![Route {
                scope: 253,
                ..route(&[10, 0, 1, 0], 24, &[])
            }],
            ..Default::default()
        };
        let mut netlink = Netlink::open().unwrap();
        configure(&mut netlink, &[(first, &one), (second, &two)]).unwrap();
        assert_shows(
            "-4 route show 10.9.0.0/16",
            &[
                "nexthop via 10.0.0.1 dev eth0 weight 1",
                "nexthop via 10.0.1.1 dev eth1 weight 3",
            ],
        );
        assert_shows(
            "-6 route",
            &[
                "nexthop via fd00::1 dev eth0 weight 1",
                "nexthop via fd00::7 dev eth0 weight 2",
            ],
        );

        let lost = Interface {
            routes: vec![Route {
                next_hops: vec![hop("eth7", &[10, 0, 0, 1], 1)],
                ..route(&[10, 8, 0, 0], 16, &[])
            }],
            ..one
        };
        let device = Device {
            index: 11,
            name: "eth0".to_owned(),
            is_up: true,
        };
        let error = configure(&mut netlink, &[(device, &lost)]).unwrap_err();
        assert!(error.to_string().contains("\"eth7\""), "{error}");
    });
}

#[test]
fn what_the_kernel_refuses_is_named_and_the_interface_is_down_again() {
    in_namespace(|device, _| {
        let interface = Interface {
            name: "eth0".to_owned(),
            mtu: 1500,
            routes: vec![route(&[], 0, &[10, 0, 0, 1])],
            ..Default::default()
        };
        let mut netlink = Netlink::open().unwrap();
        let error = configure(&mut netlink, &[(device, &interface)]).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("\"eth0\""), "{message}");
        assert!(message.contains("default via 10.0.0.1"), "{message}");
        assert!(
            !ip("link show eth0").contains("UP"),
            "{}",
            ip("link show eth0")
        );
    });
}

#[test]
fn what_is_no_address_is_refused() {
    in_namespace(|device, _| {
        for bytes in [&[][..], &[1, 2, 3], &[0; 17]] {
            let interface = Interface {
                name: "eth0".to_owned(),
                mtu: 1500,
                addresses: vec![address(bytes, 24)],
                ..Default::default()
            };
            let mut netlink = Netlink::open().unwrap();
            let error = configure(&mut netlink, &[(device.clone(), &interface)]).unwrap_err();
            assert!(matches!(error, AgentError::InvalidArgument(_)), "{error}");
        }
    });
}
