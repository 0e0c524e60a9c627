//! The device on a tap of the kernel's, in a network of its own.

use std::os::fd::OwnedFd;

use libc::IFF_MULTI_QUEUE;
use rustix::net::{RecvFlags, SendFlags};

use super::features::{CSUM, GUEST_CSUM, GUEST_TSO4};
use super::{CTRL_VQ, MQ, MRG_RXBUF, Net, NetError, Rig, STATUS, config};
use crate::devices::net::tap::TapError;
use crate::devices::net::tap::tests::{GOOD, delete, frames, make, set_up, with_own_network};
use crate::virtio::device::Device;

/// A broadcast frame of a kind that nobody else sends, marked by `seed`.
fn frame(seed: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.extend([seed; 100]);
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb5])
}

/// The next of our frames that the host sees on the interface.
fn host_sees(socket: &OwnedFd) -> Vec<u8> {
    loop {
        let mut bytes = [0; 2000];
        let (length, _) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()).unwrap();
        if is_ours(&bytes[..length]) {
            return bytes[..length].to_vec();
        }
    }
}

/// The next of our frames that the guest receives in buffers of 2000 bytes.
fn guest_sees(rig: &mut Rig, addresses: &[u64]) -> Vec<u8> {
    loop {
        while let Some((head, length)) = rig.receive[0].take_used() {
            let address = addresses[usize::from(head)];
            let frame = rig.memory(address + 12, length as usize - 12);
            if is_ours(&frame) {
                return frame;
            }
        }
        rig.serve(true);
    }
}

#[test]
fn frames_go_both_ways() {
    with_own_network(|| {
        let device = Net::new(&config(1), vec![make("cable", GOOD)]).unwrap();
        let features = CSUM | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF | STATUS;
        let mut rig = Rig::around(device, features, 1);
        set_up("cable", true);
        let host = frames("cable");
        let addresses: Vec<u64> = (0..100).map(|_| rig.offer(0, &[2000]).1).collect();
        rig.notify_receive(0).unwrap();
        for seed in 0..20 {
            rustix::net::send(&host, &frame(seed), SendFlags::empty()).unwrap();
            assert_eq!(guest_sees(&mut rig, &addresses), frame(seed));
        }
        // A new socket, in which nothing waits from before.
        let own = frames("cable");
        for seed in 100..120 {
            let packet = [vec![0; 12], frame(seed)].concat();
            rig.send(0, &packet);
            rig.notify_transmit(0).unwrap();
            assert_eq!(host_sees(&own), frame(seed));
        }
        assert_eq!(rig.counters().dropped, 0);
    });
}

#[test]
fn packets_with_a_header_that_makes_no_sense_are_lost() {
    with_own_network(|| {
        let device = Net::new(&config(1), vec![make("cable", GOOD)]).unwrap();
        let mut rig = Rig::around(device, CSUM, 1);
        set_up("cable", true);
        // Unknown kind of segmentation; a checksum far behind the end.
        let mut unknown = [vec![0; 12], frame(0)].concat();
        unknown[1] = 0x77;
        let mut beyond = [vec![0; 12], frame(0)].concat();
        beyond[0] = 1;
        beyond[6..8].copy_from_slice(&[0xff, 0xff]);
        for packet in [unknown, beyond] {
            let head = rig.send(0, &packet);
            rig.notify_transmit(0).unwrap();
            assert_eq!(rig.transmit[0].take_used(), Some((head, 0)));
        }
        assert_eq!(rig.counters().dropped, 2);
    });
}

#[test]
fn a_tap_that_is_down_loses_packets_and_comes_back() {
    with_own_network(|| {
        let device = Net::new(&config(1), vec![make("cable", GOOD)]).unwrap();
        let mut rig = Rig::around(device, 0, 1);
        rig.offer(0, &[2000]);
        let packet = [vec![0; 12], frame(1)].concat();
        rig.send(0, &packet);
        rig.notify_transmit(0).unwrap();
        assert_eq!(rig.counters().dropped, 1);
        // One more look at the queue, and that is all.
        assert_eq!(rig.settle(), 1);
        set_up("cable", true);
        let host = frames("cable");
        rig.send(0, &packet);
        rig.notify_transmit(0).unwrap();
        assert_eq!(host_sees(&host), frame(1));
        assert_eq!(rig.counters().dropped, 1);
    });
}

#[test]
fn a_tap_that_is_deleted_takes_the_link_down() {
    with_own_network(|| {
        let device = Net::new(&config(1), vec![make("cable", GOOD)]).unwrap();
        let mut rig = Rig::around(device, STATUS, 1);
        rig.offer(0, &[2000]);
        assert_eq!(rig.watched(0), (true, false));
        delete("cable");
        assert_eq!(rig.serve(true), 1);
        assert_eq!(rig.watched(0), (false, false));
        assert!(rig.line.flags.take_isr() != 0);

        // It stays so, and the guest may send what it likes.
        let stopped = rig.stop();
        rig.start(stopped.device, &stopped.positions);
        rig.settle();
        rig.send(0, &[0; 100]);
        rig.notify_transmit(0).unwrap();
        assert_eq!(rig.counters().dropped, 1);
        let mut status = [0xff; 2];
        rig.stop().device.config().read(6, &mut status);
        assert_eq!(status, [0, 0]);
    });
}

#[test]
fn all_files_must_be_queues_of_one_tap() {
    with_own_network(|| {
        let flags = GOOD | IFF_MULTI_QUEUE;
        let files = vec![make("cable", flags), make("other", flags)];
        let Err(NetError::Tap { pair: 1, source }) = Net::new(&config(2), files) else {
            panic!("accepted");
        };
        assert!(matches!(source, TapError::OtherTap { .. }));
    });
}

#[test]
fn several_queues_of_a_tap_are_used_one_after_the_other() {
    with_own_network(|| {
        let flags = GOOD | IFF_MULTI_QUEUE;
        let files = (0..3).map(|_| make("cable", flags)).collect();
        let device = Net::new(&config(3), files).unwrap();
        assert_ne!(device.features() & MQ, 0);
        let mut rig = Rig::around(device, CTRL_VQ | MQ, 3);
        set_up("cable", true);
        for pair in 0..3 {
            for _ in 0..50 {
                rig.offer(pair, &[2000]);
            }
        }
        for count in [3, 1, 2, 3] {
            rig.control.write(super::COMMANDS, &[4, 0, count, 0, 0xee]);
            let at = super::COMMANDS;
            rig.control.add(&[(at, 4, false), (at + 4, 1, true)]);
            rig.device().on_queue(6).unwrap();
            assert_eq!(rig.control.read(at + 4), [0]);
            rig.control.take_used();
            for pair in 0..3 {
                let used = pair < u32::from(count);
                assert_eq!(rig.watched(pair), (used, false));
            }
            rig.settle();
        }
        let host = frames("cable");
        let packet = [vec![0; 12], frame(7)].concat();
        rig.send(2, &packet);
        rig.notify_transmit(2).unwrap();
        assert_eq!(host_sees(&host), frame(7));
    });
}
