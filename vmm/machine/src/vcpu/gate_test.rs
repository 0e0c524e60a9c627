use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Gate;

/// A thread that passes the gate once and says what it was told.
fn thread(gate: &Arc<Gate>) -> JoinHandle<bool> {
    let gate = Arc::clone(gate);
    std::thread::spawn(move || gate.pass())
}

#[test]
fn threads_wait_until_the_gate_opens() {
    let gate = Arc::new(Gate::default());
    let threads = [thread(&gate), thread(&gate)];
    gate.wait_for_outside(2);
    assert!(!gate.is_open());
    gate.open();
    assert!(gate.is_open());
    for thread in threads {
        assert!(thread.join().unwrap());
    }
}

#[test]
fn threads_that_wait_end_too() {
    let gate = Arc::new(Gate::default());
    let waiting = thread(&gate);
    gate.wait_for_outside(1);
    gate.end();
    assert!(!waiting.join().unwrap());
    gate.open();
    assert!(!gate.is_open(), "there is no way back");
    assert!(!gate.pass());
}

#[test]
fn a_thread_that_left_is_not_waited_for() {
    let gate = Gate::default();
    gate.open();
    assert!(gate.pass());
    gate.leave();
    gate.close();
    gate.wait_for_outside(1);
}

#[test]
fn a_rest_ends_by_itself_or_when_the_gate_closes() {
    let gate = Arc::new(Gate::default());
    gate.open();
    gate.rest(Duration::from_millis(1));
    let resting = Arc::clone(&gate);
    let resting = std::thread::spawn(move || resting.rest(Duration::MAX));
    gate.close();
    resting.join().unwrap();
}
