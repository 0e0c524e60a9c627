use super::{DeviceFault, MRG_RXBUF, Rig, narrow, packet};
use crate::devices::net::{MAX_PACKET, PACKETS_PER_CALL};
use crate::virtio::device::Counters;

/// Length of a receive buffer without mergeable buffers, as Linux makes them.
const BUFFER: u32 = 1530;

/// `packet` as the guest sees it when it is spread over `count` buffers.
fn spread(mut packet: Vec<u8>, count: u16) -> Vec<u8> {
    packet[10..12].copy_from_slice(&count.to_le_bytes());
    packet
}

#[test]
fn a_packet_lands_in_the_buffers_of_the_guest() {
    let mut rig = Rig::new(0);
    let (head, address) = rig.offer(0, &[12, 1518]);
    let sent = packet(100, 1);
    rig.hosts[0].send(&sent).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), Some((head, 100)));
    assert_eq!(rig.memory(address, 12), spread(sent.clone(), 1)[..12]);
    assert_eq!(rig.memory(address + 28, 88), sent[12..]);
    assert_eq!(rig.memory(address + 28 + 88, 16), [0; 16]);
    assert_eq!(rig.receive[0].interrupts(), 1);
    let counters = rig.counters();
    assert_eq!((counters.requests, counters.bytes_to_guest), (1, 88));
}

#[test]
fn a_packet_spans_as_many_mergeable_buffers_as_it_needs() {
    let mut rig = Rig::new(MRG_RXBUF);
    let offered: Vec<_> = (0..60).map(|_| rig.offer(0, &[1536])).collect();
    let sent = packet(MAX_PACKET, 3);
    rig.hosts[0].send(&sent).unwrap();
    rig.settle();
    let mut got = Vec::new();
    for (head, address) in &offered[..43] {
        let part = 1536.min(MAX_PACKET - got.len());
        let used = rig.receive[0].take_used();
        assert_eq!(used, Some((*head, part as u32)));
        got.extend(rig.memory(*address, part));
        assert_eq!(rig.memory(address + 1536, 16), [0; 16]);
    }
    assert_eq!(rig.receive[0].take_used(), None);
    assert_eq!(got, spread(sent, 43));
    assert_eq!(rig.receive[0].interrupts(), 1);

    // The next packet goes into the next buffer.
    rig.hosts[0].send(&packet(60, 4)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), Some((offered[43].0, 60)));
}

#[test]
fn a_header_may_lie_across_descriptors() {
    let mut rig = Rig::new(MRG_RXBUF);
    let (head, address) = rig.offer(0, &[5, 6, 0, 100]);
    rig.hosts[0].send(&packet(60, 9)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), Some((head, 60)));
    // The number of buffers is in bytes 10 and 11: the last of the second and the first of the
    // fourth descriptor.
    assert_eq!(rig.memory(address + 5 + 16 + 5, 1), [1]);
    assert_eq!(rig.memory(address + 5 + 6 + 3 * 16, 1), [0]);
}

#[test]
fn a_full_tap_and_an_empty_ring_do_not_freeze() {
    for features in [0, MRG_RXBUF] {
        let mut rig = Rig::new(features);
        narrow(&rig);
        let mut sent = 0;
        while rig.hosts[0].send(&packet(80, sent)).is_ok() {
            sent += 1;
        }
        // Ready, but not for ever: the tap is left alone until there is a buffer.
        assert_eq!(rig.settle(), 1);
        assert_eq!(rig.watched(0), (false, false));
        for seed in 0..sent {
            let (head, address) = rig.offer(0, &[BUFFER]);
            rig.notify_receive(0).unwrap();
            rig.settle();
            assert_eq!(rig.receive[0].take_used(), Some((head, 80)));
            assert_eq!(rig.memory(address + 12, 68), packet(80, seed)[12..]);
            assert_eq!(rig.watched(0), (false, false));
        }
        rig.offer(0, &[BUFFER]);
        rig.notify_receive(0).unwrap();
        assert_eq!(rig.watched(0), (true, false));
        assert_eq!(rig.settle(), 0);
    }
}

#[test]
fn the_driver_is_asked_to_notify_when_a_buffer_is_missing() {
    let mut rig = Rig::new(0);
    rig.offer(0, &[BUFFER]);
    for seed in 0..2 {
        rig.hosts[0].send(&packet(80, seed)).unwrap();
    }
    rig.settle();
    assert_eq!(rig.receive[0].available_event(), 1);
}

#[test]
fn a_packet_waits_for_enough_buffers() {
    let mut rig = Rig::new(MRG_RXBUF);
    let first = rig.offer(0, &[100]);
    let sent = packet(250, 5);
    rig.hosts[0].send(&sent).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), None);
    assert_eq!(rig.watched(0), (false, false));

    let (second, third) = (rig.offer(0, &[100]), rig.offer(0, &[100]));
    rig.notify_receive(0).unwrap();
    let mut got = Vec::new();
    for ((head, address), length) in [(first, 100), (second, 100), (third, 50)] {
        assert_eq!(rig.receive[0].take_used(), Some((head, length)));
        got.extend(rig.memory(address, length as usize));
    }
    assert_eq!(got, spread(sent, 3));
    assert_eq!(rig.counters().dropped, 0);
}

#[test]
fn a_packet_that_never_fits_does_not_block_the_next() {
    let mut rig = Rig::new(MRG_RXBUF);
    rig.offer(0, &[100]);
    rig.hosts[0].send(&packet(2000, 5)).unwrap();
    rig.hosts[0].send(&packet(60, 6)).unwrap();
    rig.settle();
    for _ in 0..2 {
        assert_eq!(rig.receive[0].take_used(), None);
        rig.notify_receive(0).unwrap();
    }
    rig.settle();
    assert_eq!(rig.receive[0].take_used().map(|used| used.1), Some(60));
    assert_eq!(rig.counters().dropped, 1);
}

#[test]
fn a_packet_too_long_for_its_only_buffer_is_dropped_and_the_buffer_used_again() {
    let mut rig = Rig::new(0);
    let (head, address) = rig.offer(0, &[BUFFER]);
    rig.hosts[0].send(&packet(1531, 1)).unwrap();
    rig.hosts[0].send(&packet(1530, 2)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), Some((head, 1530)));
    assert_eq!(rig.memory(address + 12, 1518), packet(1530, 2)[12..]);
    assert_eq!(rig.counters().dropped, 1);
}

#[test]
fn a_packet_longer_than_any_is_dropped() {
    let mut rig = Rig::new(MRG_RXBUF);
    for _ in 0..100 {
        rig.offer(0, &[1536]);
    }
    rig.hosts[0].send(&packet(2 * MAX_PACKET + 100, 1)).unwrap();
    rig.hosts[0].send(&packet(11, 1)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), None);
    assert_eq!(rig.counters().dropped, 2);
}

#[test]
fn a_buffer_of_a_thousand_pieces_is_filled_in_part() {
    let mut rig = Rig::new(MRG_RXBUF);
    // 256 chains of one descriptor each would do; this is one chain of 256 tiny ones.
    let (head, address) = rig.offer(0, &[2; 256]);
    rig.hosts[0].send(&packet(400, 8)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), Some((head, 400)));
    assert_eq!(rig.memory(address + 6 * 18, 2), packet(400, 8)[12..14]);
}

#[test]
fn one_call_serves_a_bounded_number_of_packets() {
    let mut rig = Rig::new(0);
    for _ in 0..PACKETS_PER_CALL + 10 {
        rig.offer(0, &[BUFFER]);
    }
    let mut served = 0;
    while served < PACKETS_PER_CALL + 10 {
        while rig.hosts[0].send(&packet(60, 0)).is_ok() {}
        rig.device().on_ready(0).unwrap();
        let mut now = 0;
        while rig.receive[0].take_used().is_some() {
            now += 1;
        }
        assert!((1..=PACKETS_PER_CALL).contains(&now), "{now}");
        served += now;
    }
}

#[test]
fn a_buffer_without_room_for_a_header_stops_the_device() {
    for features in [0, MRG_RXBUF] {
        let mut rig = Rig::new(features);
        rig.offer(0, &[11]);
        let fault = rig.device().on_ready(0);
        assert!(matches!(fault, Err(DeviceFault::Queue { index: 0, .. })));
    }
}

#[test]
fn a_buffer_outside_memory_stops_the_device() {
    let mut rig = Rig::new(MRG_RXBUF);
    rig.receive[0].add(&[(u64::MAX - 100, 1536, true)]);
    let fault = rig.device().on_ready(0);
    assert!(matches!(fault, Err(DeviceFault::Queue { index: 0, .. })));
}

#[test]
fn a_lost_interface_is_left_alone() {
    let mut rig = Rig::new(0);
    rig.offer(0, &[BUFFER]);
    // What the tests have for a tap tells by a packet without bytes that it is gone.
    rig.hosts[0].send(&[]).unwrap();
    assert_eq!(rig.settle(), 1);
    assert_eq!(rig.watched(0), (false, false));
    assert_eq!(rig.counters(), Counters::default());
}
