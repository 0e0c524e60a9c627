use std::io::Read;
use std::os::unix::net::UnixStream;

use caisson_control::ExitReason;

use super::{Happening, MAX_FAULT_REPORTS, QUEUE_LENGTH, channel};
use crate::devices::vsock::VsockEvents;

#[test]
fn the_first_reason_of_an_exit_counts() {
    let (sender, receiver) = channel().unwrap();
    assert!(receiver.exit_reason().is_none());
    sender.exit(ExitReason::Panic);
    sender.clone().exit(ExitReason::Shutdown);
    assert_eq!(receiver.exit_reason(), Some(&ExitReason::Panic));
}

#[test]
fn the_agent_starts_once() {
    let (sender, receiver) = channel().unwrap();
    sender.agent_started();
    let first = receiver.agent_started().unwrap();
    receiver.acknowledge();
    sender.agent_started();
    assert_eq!(receiver.agent_started(), Some(first));
    let nothing = rustix::io::read(&receiver, &mut [0; 8]);
    assert_eq!(nothing, Err(rustix::io::Errno::AGAIN));
}

#[test]
fn a_flood_of_faults_ends_and_blocks_nobody() {
    let (sender, receiver) = channel().unwrap();
    let mut seen = 0;
    for _ in 0..10 * MAX_FAULT_REPORTS {
        sender.device_fault("rng", "again".to_owned());
        seen += receiver.take().len();
    }
    assert_eq!(seen, MAX_FAULT_REPORTS as usize);
}

#[test]
fn a_full_queue_closes_connections_but_loses_no_answer_and_no_exit() {
    let (sender, receiver) = channel().unwrap();
    let mut guests = Vec::new();
    for port in 0..=QUEUE_LENGTH as u32 {
        let (host, guest) = UnixStream::pair().unwrap();
        sender.guest_connected(port, host);
        guests.push(guest);
    }
    sender.connect_finished(7, true);
    sender.exit(ExitReason::Shutdown);
    assert_eq!(receiver.exit_reason(), Some(&ExitReason::Shutdown));

    let closed = guests.pop().unwrap().read(&mut [0]).unwrap();
    assert_eq!(closed, 0, "the connection that found the queue full");
    let waiting = receiver.take();
    assert_eq!(waiting.len(), QUEUE_LENGTH + 1);
    assert!(matches!(
        waiting.back(),
        Some(Happening::ConnectFinished {
            id: 7,
            accepted: true
        })
    ));
}

#[test]
fn what_comes_while_the_queue_is_looked_at_waits_for_the_next_turn() {
    let (sender, receiver) = channel().unwrap();
    let connect = |port| sender.guest_connected(port, UnixStream::pair().unwrap().0);
    connect(0);
    receiver.acknowledge();
    let mut turns = 0;
    // A guest that connects again for each connection that is passed on.
    for happening in receiver.take() {
        connect(1);
        drop(happening);
        turns += 1;
    }
    assert_eq!(turns, 1);
    assert!(rustix::io::read(&receiver, &mut [0; 8]).is_ok(), "woken");
    assert_eq!(receiver.take().len(), 1);
}

#[test]
fn memory_pressure_is_told_once_a_second_at_most() {
    const SECOND: u64 = 1_000_000_000;
    let (sender, receiver) = channel().unwrap();
    for (now, balloon_mib) in [
        (5, 1),
        (6, 2),
        (SECOND, 3),
        (SECOND + 5, 4),
        (2 * SECOND, 5),
        (9 * SECOND, 6),
    ] {
        sender.memory_pressure_at(now, balloon_mib);
    }
    let told: Vec<u32> = receiver
        .take()
        .into_iter()
        .map(|happening| match happening {
            Happening::MemoryPressure { balloon_mib } => balloon_mib,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [1, 4, 6]);
}
