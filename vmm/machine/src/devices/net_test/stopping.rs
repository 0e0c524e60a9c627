use super::{CTRL_VQ, DeviceFault, MQ, MRG_RXBUF, Rig, config, narrow, packet};
use crate::virtio::device::{Activation, Device};
use crate::virtio::mock_driver::driver_line;

#[test]
fn unused_buffers_are_there_again_after_a_pause() {
    let mut rig = Rig::new(MRG_RXBUF);
    let offered: Vec<_> = (0..5).map(|_| rig.offer(0, &[1536])).collect();
    rig.hosts[0].send(&packet(60, 1)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used(), Some((offered[0].0, 60)));

    let stopped = rig.stop();
    let receive = stopped.positions.iter().find(|queue| queue.index == 0);
    let receive = receive.unwrap();
    assert_eq!((receive.next_avail, receive.next_used), (1, 1));
    rig.start(stopped.device, &stopped.positions);
    for (seed, (head, address)) in (2..).zip(&offered[1..]) {
        rig.hosts[0].send(&packet(60, seed)).unwrap();
        rig.settle();
        assert_eq!(rig.receive[0].take_used(), Some((*head, 60)));
        assert_eq!(rig.memory(address + 12, 48), packet(60, seed)[12..]);
    }
    assert_eq!(rig.counters().requests, 5);
    assert_eq!(rig.counters().bytes_to_guest, 5 * 48);
}

#[test]
fn what_a_full_tap_did_not_take_is_sent_after_a_pause() {
    let mut rig = Rig::new(0);
    narrow(&rig);
    for seed in 0..100 {
        rig.send(0, &packet(90, seed));
    }
    rig.notify_transmit(0).unwrap();
    assert!(rig.watched(0).1);
    let stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    assert!(!rig.watched(0).1);
    // After a pause every queue is notified.
    rig.notify_transmit(0).unwrap();
    let mut got = 0;
    while got < 100 {
        while let Some(received) = rig.received(0) {
            assert_eq!(received, packet(90, got));
            got += 1;
        }
        rig.settle();
    }
    assert_eq!(rig.counters().requests, 100);
}

#[test]
fn a_driver_without_buffers_is_served_after_a_pause() {
    let mut rig = Rig::new(MRG_RXBUF);
    rig.hosts[0].send(&packet(60, 1)).unwrap();
    rig.settle();
    assert_eq!(rig.watched(0), (false, false));
    let stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    rig.settle();
    let (head, _) = rig.offer(0, &[1536]);
    rig.notify_receive(0).unwrap();
    assert_eq!(rig.receive[0].take_used(), Some((head, 60)));
}

#[test]
fn a_packet_that_waits_for_buffers_at_a_pause_is_counted_as_lost() {
    let mut rig = Rig::new(MRG_RXBUF);
    rig.offer(0, &[100]);
    rig.hosts[0].send(&packet(250, 5)).unwrap();
    rig.settle();
    assert_eq!(rig.counters().dropped, 0);
    let stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    assert_eq!(rig.counters().dropped, 1);
    // Only that one: the buffer takes the next.
    rig.hosts[0].send(&packet(60, 6)).unwrap();
    rig.settle();
    assert_eq!(rig.receive[0].take_used().map(|used| used.1), Some(60));
    assert_eq!(rig.counters().dropped, 1);
}

#[test]
fn the_position_of_every_queue_is_kept_also_of_those_not_used() {
    for features in [0, CTRL_VQ, CTRL_VQ | MQ] {
        let mut rig = Rig::with(&config(3), features);
        let mut indices: Vec<_> = rig.stop().positions.iter().map(|p| p.index).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn a_missing_queue_of_the_first_pair_is_a_fault() {
    for missing in [0, 1] {
        let mut rig = Rig::new(0);
        let device: Box<dyn Device> = rig.stop().device;
        let mut queues = vec![rig.receive[0].queue(0).ok(), rig.transmit[0].queue(1).ok()];
        queues[missing] = None;
        let activation = Activation {
            features: 0,
            memory: std::sync::Arc::clone(&rig.memory),
            queues,
            driver: driver_line(),
        };
        let Err((_, fault)) = device.activate(activation) else {
            panic!("started without queue {missing}");
        };
        assert!(matches!(fault, DeviceFault::QueueMissing(index) if index == missing));
    }
}
