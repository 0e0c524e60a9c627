use super::{DeviceFault, HEADER_SIZE, PACKETS, Rig, narrow, packet};
use crate::devices::net::{ETHERNET_HEADER, MAX_PACKET, PACKETS_PER_CALL};

#[test]
fn a_packet_reaches_the_host_with_its_header() {
    let mut rig = Rig::new(0);
    let mut sent = packet(500, 1);
    sent[..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]);
    let head = rig.send(0, &sent);
    rig.notify_transmit(0).unwrap();
    assert_eq!(rig.received(0), Some(sent));
    assert_eq!(rig.transmit[0].take_used(), Some((head, 0)));
    assert_eq!(rig.transmit[0].interrupts(), 1);
    let counters = rig.counters();
    assert_eq!((counters.requests, counters.bytes_from_guest), (1, 488));
}

#[test]
fn a_packet_may_lie_anywhere_in_pieces() {
    let mut rig = Rig::new(0);
    let sent = packet(300, 7);
    rig.transmit[0].write(PACKETS, &sent);
    // The header in two, the rest in three, one of them empty.
    let cuts = [0, 5, 12, 100, 100, 299, 300];
    let pieces: Vec<_> = cuts
        .windows(2)
        .map(|cut| (PACKETS + cut[0], (cut[1] - cut[0]) as u32, false))
        .collect();
    rig.transmit[0].add(&pieces);
    rig.notify_transmit(0).unwrap();
    assert_eq!(rig.received(0), Some(sent));
}

#[test]
fn packets_too_short_or_too_long_are_dropped_and_completed() {
    let mut rig = Rig::new(0);
    let shortest = HEADER_SIZE + ETHERNET_HEADER;
    for length in [1, HEADER_SIZE, shortest - 1, MAX_PACKET + 1, 1 << 20] {
        let head = rig.send(0, &vec![0; length]);
        rig.notify_transmit(0).unwrap();
        assert_eq!(rig.transmit[0].take_used(), Some((head, 0)));
        assert_eq!(rig.received(0), None);
    }
    // A chain with nothing to read at all.
    let head = rig.transmit[0].add(&[(PACKETS, 100, true)]);
    rig.notify_transmit(0).unwrap();
    assert_eq!(rig.transmit[0].take_used(), Some((head, 0)));
    assert_eq!(rig.counters().dropped, 6);

    for length in [shortest, MAX_PACKET] {
        rig.send(0, &vec![0; length]);
        rig.notify_transmit(0).unwrap();
        assert_eq!(rig.received(0).map(|packet| packet.len()), Some(length));
    }
    assert_eq!(rig.counters().dropped, 6);
}

#[test]
fn a_full_tap_is_waited_for_and_nothing_is_lost() {
    let mut rig = Rig::new(0);
    narrow(&rig);
    let heads: Vec<_> = (0..200)
        .map(|seed| rig.send(0, &packet(90, seed)))
        .collect();
    rig.notify_transmit(0).unwrap();
    assert!(rig.watched(0).1);
    // Further notifications change nothing, and nobody spins.
    rig.notify_transmit(0).unwrap();
    let mut got = 0;
    while got < 200 {
        let before = got;
        while let Some(received) = rig.received(0) {
            assert_eq!(received, packet(90, got as u8));
            got += 1;
        }
        assert!(got > before);
        rig.settle();
    }
    assert!(!rig.watched(0).1);
    for head in heads {
        assert_eq!(rig.transmit[0].take_used(), Some((head, 0)));
    }
    assert_eq!(rig.counters().dropped, 0);
}

#[test]
fn a_link_that_is_down_loses_packets_and_nothing_else() {
    let mut rig = Rig::new(0);
    rig.offer(0, &[1530]);
    // Writing to a socket whose peer is gone fails, as writing to a tap that is down does.
    let (spare, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    drop(std::mem::replace(&mut rig.hosts[0], spare));
    for seed in 0..5 {
        let head = rig.send(0, &packet(90, seed));
        rig.notify_transmit(0).unwrap();
        assert_eq!(rig.transmit[0].take_used(), Some((head, 0)));
    }
    assert_eq!(rig.counters().dropped, 5);
    assert!(!rig.watched(0).1);
    rig.settle();
}

#[test]
fn a_flood_is_served_in_portions() {
    let mut rig = Rig::new(0);
    for seed in 0..(PACKETS_PER_CALL + 5) as u8 {
        // Too short: nothing that fills the tap.
        rig.send(0, &packet(20, seed));
    }
    rig.notify_transmit(0).unwrap();
    assert_eq!(rig.counters().requests, PACKETS_PER_CALL as u64);
    // The rest follows although the driver does not notify again, and then a look in vain.
    assert_eq!(rig.settle(), 2);
    assert_eq!(rig.counters().requests, PACKETS_PER_CALL as u64 + 5);
}

#[test]
fn the_driver_need_not_notify_while_the_tap_is_full() {
    let mut rig = Rig::new(0);
    narrow(&rig);
    for seed in 0..100 {
        rig.send(0, &packet(90, seed));
    }
    rig.notify_transmit(0).unwrap();
    rig.settle();
    let event = rig.transmit[0].available_event();
    while rig.received(0).is_some() {
        rig.settle();
    }
    // Once everything is sent, the next one is announced.
    assert_ne!(event, 100);
    assert_eq!(rig.transmit[0].available_event(), 100);
}

#[test]
fn a_driver_that_goes_on_sending_notifies_once() {
    let mut rig = Rig::new(0);
    for seed in 0..10 {
        rig.transmit[0].write_used_event(seed.into());
        rig.send(0, &packet(90, seed));
        // From the second on it is the device that comes back.
        rig.notify_transmit(0).unwrap();
        assert_eq!(rig.received(0), Some(packet(90, seed)));
        assert_eq!(rig.transmit[0].interrupts(), 1);
        assert_eq!(rig.transmit[0].available_event(), 0);
        assert!(rig.transmit[0].take_used().is_some());
        assert_eq!(rig.transmit[0].kick.read().unwrap(), 1);
    }
    rig.notify_transmit(0).unwrap();
    assert_eq!(rig.transmit[0].available_event(), 10);
    assert_eq!(rig.settle(), 0);
}

#[test]
fn a_malformed_chain_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.transmit[0].add(&[(u64::MAX - 50, 100, false)]);
    let fault = rig.notify_transmit(0);
    assert!(matches!(fault, Err(DeviceFault::Queue { index: 1, .. })));
}

#[test]
fn a_chain_that_loops_stops_the_device() {
    let mut rig = Rig::new(0);
    rig.transmit[0].write_descriptor(0, (PACKETS, 100, crate::virtio::mock_driver::NEXT, 0));
    rig.transmit[0].make_available(0);
    let fault = rig.notify_transmit(0);
    assert!(matches!(fault, Err(DeviceFault::Queue { index: 1, .. })));
}
