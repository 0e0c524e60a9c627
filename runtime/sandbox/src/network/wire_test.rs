use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use caisson_netlink::Netlink;
use rustix::event::{PollFd, PollFlags};

use super::super::survey::{Found, survey};
use super::super::test_namespace::TestNamespace;
use super::{WireError, connect, disconnect};

/// Bytes of a `virtio_net_hdr`, as long as the VMM has not asked for more.
const HEADER: usize = 10;

fn look(netlink: &mut Netlink) -> Found {
    survey(netlink).unwrap().remove(0)
}

fn connect_in(namespace: &TestNamespace) -> Result<(u32, OwnedFd), WireError> {
    let connected = namespace.0.run_blocking(|| {
        let mut netlink = Netlink::open()?;
        let found = look(&mut netlink);
        Ok((found.index, connect(&mut netlink, &found)?))
    });
    connected.unwrap()
}

/// A frame that begins so, behind its header.
fn frame_with(tap: &mut File, beginning: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 2000];
    loop {
        match tap.read(&mut frame) {
            Ok(count) => {
                let frame = frame.get(HEADER..count).unwrap();
                if frame.starts_with(beginning) {
                    return frame.to_vec();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut watched = [PollFd::new(&*tap, PollFlags::IN)];
                rustix::event::poll(&mut watched, None).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn what_comes_to_the_interface_goes_to_the_tap_and_back() {
    let (Some(pod), Some(host)) = (TestNamespace::new().await, TestNamespace::new().await) else {
        return;
    };
    pod.connect("eth0", &host, "veth0");
    pod.run("ip addr add 10.0.0.2/24 dev eth0");
    host.run("ip addr add 10.0.0.1/24 dev veth0");
    let (index, tap) = connect_in(&pod).unwrap();
    let mut tap = File::from(tap);

    // To say something the host must first ask who has the address. The pod's stack, which has it
    // too, must not hear that.
    let say = || UdpSocket::bind("10.0.0.1:0")?.send_to(b"hello", "10.0.0.2:9");
    assert_eq!(host.0.run_blocking(say).unwrap().unwrap(), 5);
    let question = frame_with(&mut tap, &[0xff; 6]);
    assert_eq!(
        question.get(12..14),
        Some(&[0x08, 0x06][..]),
        "{question:?}"
    );
    // ARP: the answer is the question turned round (RFC 826).
    let (asker, mac) = (&question[6..12], [2, 0xca, 0x15, 0x50, 0, 9]);
    let mut answer = vec![0; HEADER];
    answer.extend_from_slice(asker);
    answer.extend_from_slice(&mac);
    answer.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer.extend_from_slice(&mac);
    answer.extend_from_slice(&[10, 0, 0, 2]);
    answer.extend_from_slice(&question[22..32]);
    assert_eq!(tap.write(&answer).unwrap(), answer.len());
    // Then the host says it there.
    let request = frame_with(&mut tap, &mac);
    assert_eq!(request.get(12..14), Some(&[0x08, 0x00][..]), "{request:?}");
    assert!(request.ends_with(b"hello"), "{request:?}");
    let neighbours = host.run("ip neigh show 10.0.0.2");
    assert!(neighbours.contains("02:ca:15:50:00:09"), "{neighbours}");

    drop(tap);
    let tidy = || disconnect(&mut Netlink::open().unwrap(), index);
    pod.0.run_blocking(tidy).unwrap();
    pod.assert_left("");
    // There is nothing left to be done a second time.
    pod.0.run_blocking(tidy).unwrap();
}

#[tokio::test]
async fn the_tap_has_the_interfaces_mtu_and_no_address_of_its_own() {
    let (Some(pod), Some(host)) = (TestNamespace::new().await, TestNamespace::new().await) else {
        return;
    };
    pod.connect("eth0", &host, "veth0");
    pod.run("ip link set eth0 mtu 9000");
    let _connected = connect_in(&pod).unwrap();
    let shown = pod.run("ip addr show caisson0");
    assert!(
        shown.contains("mtu 9000") && shown.contains(",UP"),
        "{shown}"
    );
    assert!(!shown.contains("inet"), "{shown}");
}

#[tokio::test]
async fn an_interface_that_is_taken_is_named_and_left_alone() {
    let (Some(pod), Some(host)) = (TestNamespace::new().await, TestNamespace::new().await) else {
        return;
    };
    pod.connect("eth0", &host, "veth0");
    let (_, _tap) = connect_in(&pod).unwrap();
    let before = pod.traces();
    let error = connect_in(&pod).unwrap_err();
    assert!(matches!(error, WireError::Taken { .. }), "{error}");
    assert!(error.to_string().starts_with("eth0 "), "{error}");
    pod.assert_left(&before);
}
