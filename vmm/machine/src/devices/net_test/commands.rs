use super::{Asked, COMMANDS, CTRL_VQ, DeviceFault, MQ, Rig, config, packet};
use crate::devices::net::features::{CTRL_GUEST_OFFLOADS, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6};

const OK: u8 = 0;
const ERROR: u8 = 1;

/// Three queue pairs, one of them in use.
fn three_pairs() -> Rig {
    let rig = Rig::with(&config(3), CTRL_VQ | MQ);
    let detached = [Asked::Attached(1, false), Asked::Attached(2, false)];
    assert_eq!(asked(&rig)[1..], detached);
    rig
}

fn asked(rig: &Rig) -> Vec<Asked> {
    std::mem::take(&mut *rig.asked.lock().unwrap())
}

/// Sends a command on the control queue, which is queue `index`; returns the answer.
fn command(rig: &mut Rig, index: usize, bytes: &[u8]) -> u8 {
    rig.control.write(COMMANDS, bytes);
    rig.control.write(COMMANDS + 0x100, &[0xee]);
    let (head, rest) = (
        bytes.len().min(2) as u32,
        bytes.len().saturating_sub(2) as u32,
    );
    let parts = [
        (COMMANDS, head, false),
        (COMMANDS + u64::from(head), rest, false),
        (COMMANDS + 0x100, 1, true),
    ];
    let used = rig.control.add(&parts);
    rig.device().on_queue(index).unwrap();
    assert_eq!(rig.control.take_used(), Some((used, 1)));
    rig.control.read::<1>(COMMANDS + 0x100)[0]
}

#[test]
fn the_driver_chooses_the_number_of_queue_pairs() {
    let mut rig = three_pairs();
    for pair in 0..3 {
        rig.offer(pair, &[1530]);
    }
    assert_eq!(command(&mut rig, 6, &[4, 0, 3, 0]), OK);
    let attached = [Asked::Attached(1, true), Asked::Attached(2, true)];
    assert_eq!(asked(&rig), attached);
    for pair in 0..3 {
        assert_eq!(rig.watched(pair), (true, false));
    }
    // As before: nothing to do.
    assert_eq!(command(&mut rig, 6, &[4, 0, 3, 0]), OK);
    assert_eq!(asked(&rig), []);

    assert_eq!(command(&mut rig, 6, &[4, 0, 2, 0]), OK);
    assert_eq!(asked(&rig), [Asked::Attached(2, false)]);
    assert_eq!(rig.watched(1), (true, false));
    assert_eq!(rig.watched(2), (false, false));
}

#[test]
fn packets_take_the_queue_pairs_in_use_alone() {
    let mut rig = three_pairs();
    let (head, _) = rig.offer(1, &[1530]);
    rig.hosts[1].send(&packet(60, 1)).unwrap();
    rig.send(1, &packet(70, 2));
    rig.notify_receive(1).unwrap();
    rig.notify_transmit(1).unwrap();
    rig.settle();
    assert_eq!(rig.receive[1].take_used(), None);
    assert_eq!(rig.received(1), None);

    // What was notified before is not forgotten.
    assert_eq!(command(&mut rig, 6, &[4, 0, 2, 0]), OK);
    assert_eq!(rig.receive[1].take_used(), Some((head, 60)));
    assert_eq!(rig.received(1), Some(packet(70, 2)));
}

#[test]
fn a_number_of_queue_pairs_that_is_not_there_is_refused() {
    let mut rig = three_pairs();
    for count in [0u16, 4, 0x100, 0x8000, 0xffff] {
        let [low, high] = count.to_le_bytes();
        assert_eq!(command(&mut rig, 6, &[4, 0, low, high]), ERROR);
    }
    assert_eq!(asked(&rig), []);
}

#[test]
fn malformed_commands_are_answered_with_an_error() {
    let mut rig = three_pairs();
    let commands: [&[u8]; 10] = [
        &[],
        &[4],
        &[4, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
        &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 1],
        &[1, 1, 2, 0, 0, 0, 0, 7],
        &[255; 200],
    ];
    for bytes in commands {
        assert_eq!(command(&mut rig, 6, bytes), ERROR, "{bytes:?}");
    }
    assert_eq!(asked(&rig), []);
}

#[test]
fn a_command_without_room_for_the_answer_stops_the_device() {
    let mut rig = three_pairs();
    rig.control.write(COMMANDS, &[4, 0, 2, 0]);
    rig.control.add(&[(COMMANDS, 4, false)]);
    let fault = rig.device().on_queue(6);
    assert!(matches!(fault, Err(DeviceFault::Queue { index: 6, .. })));
    assert_eq!(asked(&rig), []);
}

#[test]
fn the_driver_switches_offloads_off_and_on() {
    let mut rig = Rig::new(CTRL_VQ | CTRL_GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4);
    let all = libc::TUN_F_CSUM | libc::TUN_F_TSO4;
    assert_eq!(asked(&rig), [Asked::Offloads(all)]);
    let mut set = |offloads: u64| {
        let bytes = [&[5, 0][..], &offloads.to_le_bytes()].concat();
        (command(&mut rig, 2, &bytes), asked(&rig))
    };
    assert_eq!(set(0), (OK, vec![Asked::Offloads(0)]));
    let expected = vec![Asked::Offloads(libc::TUN_F_CSUM)];
    assert_eq!(set(GUEST_CSUM), (OK, expected));
    // What it did not accept at first it cannot have now.
    assert_eq!(set(GUEST_CSUM | GUEST_TSO6), (ERROR, vec![]));

    // The choice holds over a pause and is forgotten by a reset.
    let mut stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    assert_eq!(asked(&rig), [Asked::Offloads(libc::TUN_F_CSUM)]);
    stopped = rig.stop();
    stopped.device.reset();
    rig.start(stopped.device, &stopped.positions);
    assert_eq!(asked(&rig), [Asked::Offloads(all)]);
}

#[test]
fn a_reset_goes_back_to_one_queue_pair_and_a_pause_does_not() {
    let mut rig = three_pairs();
    assert_eq!(command(&mut rig, 6, &[4, 0, 3, 0]), OK);
    let mut stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    assert_eq!(rig.watched(2), (true, false));
    stopped = rig.stop();
    stopped.device.reset();
    rig.start(stopped.device, &stopped.positions);
    assert_eq!(rig.watched(0), (true, false));
    assert_eq!(rig.watched(1), (false, false));
}

#[test]
fn without_several_queue_pairs_the_control_queue_is_the_third() {
    let mut rig = Rig::with(&config(3), CTRL_VQ);
    // The test's driver has the second receive queue there.
    rig.receive[1].write(COMMANDS, &[4, 0, 1, 0]);
    rig.receive[1].write(COMMANDS + 0x100, &[0xee]);
    rig.receive[1].add(&[(COMMANDS, 4, false), (COMMANDS + 0x100, 1, true)]);
    rig.device().on_queue(2).unwrap();
    assert_eq!(rig.receive[1].read(COMMANDS + 0x100), [ERROR]);
}
