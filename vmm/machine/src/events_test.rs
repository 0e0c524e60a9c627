use caisson_control::ExitReason;

use super::{Happening, MAX_FAULT_REPORTS, QUEUE_LENGTH, channel};

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
    assert!(receiver.wake_fd().read().is_err(), "nothing new to look at");
}

#[test]
fn a_flood_of_faults_ends_and_blocks_nobody() {
    let (sender, receiver) = channel().unwrap();
    let mut seen = 0;
    for _ in 0..10 * MAX_FAULT_REPORTS {
        sender.device_fault("rng", "again".to_owned());
        while receiver.next().is_some() {
            seen += 1;
        }
    }
    assert_eq!(seen, MAX_FAULT_REPORTS);
}

#[test]
fn a_full_queue_gives_the_happening_back_but_lets_an_exit_through() {
    let (sender, receiver) = channel().unwrap();
    let happening = || Happening::ConnectFinished {
        id: 1,
        accepted: true,
    };
    for _ in 0..QUEUE_LENGTH {
        sender.send(happening()).unwrap();
    }
    assert!(sender.send(happening()).is_err());
    sender.exit(ExitReason::Shutdown);
    assert_eq!(receiver.exit_reason(), Some(&ExitReason::Shutdown));
}
