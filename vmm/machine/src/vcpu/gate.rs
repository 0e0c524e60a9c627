//! The way into the guest for all vCPU threads: closed before the start and in a pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Wait in front of the gate.
    #[default]
    Closed,
    /// Run the guest.
    Open,
    /// End.
    Ended,
}

/// The gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
    /// Whether the state is [`State::Open`], for those who cannot take the lock each time.
    open: AtomicBool,
}

#[derive(Debug, Default)]
struct Inside {
    state: State,
    /// Threads that wait in front of the gate, and those that have ended.
    outside: usize,
}

impl Gate {
    /// Lets the threads into the guest.
    pub(super) fn open(&self) {
        self.set(State::Open);
    }

    /// Keeps threads that come out of the guest from entering again.
    pub(super) fn close(&self) {
        self.set(State::Closed);
    }

    /// Lets the threads end, also those that wait.
    pub(super) fn end(&self) {
        self.set(State::Ended);
    }

    /// Whether a thread may enter the guest.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until the gate is not closed; false when it is time to end.
    pub(super) fn pass(&self) -> bool {
        let mut inside = self.inside();
        inside.outside += 1;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_while(inside, |inside| inside.state == State::Closed);
        let mut inside = waited.unwrap_or_else(PoisonError::into_inner);
        inside.outside -= 1;
        inside.state == State::Open
    }

    /// Waits for a moment, which ends early when the gate is closed.
    pub(super) fn rest(&self, moment: Duration) {
        let inside = self.inside();
        let open = |inside: &mut Inside| inside.state == State::Open;
        let waited = self.changed.wait_timeout_while(inside, moment, open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// A thread will not come back.
    pub(super) fn leave(&self) {
        self.inside().outside += 1;
        self.changed.notify_all();
    }

    /// Waits until `count` threads are out of the guest.
    pub(super) fn wait_for_outside(&self, count: usize) {
        let inside = self.inside();
        let waited = self
            .changed
            .wait_while(inside, |inside| inside.outside < count);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn set(&self, state: State) {
        let mut inside = self.inside();
        // There is no way back from the end.
        if inside.state != State::Ended {
            inside.state = state;
            self.open.store(state == State::Open, Ordering::Release);
        }
        drop(inside);
        self.changed.notify_all();
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing can panic while the lock is held.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod tests;
