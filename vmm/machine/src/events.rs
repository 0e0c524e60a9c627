//! What the other threads tell the control thread.
//!
//! Much of this is brought about by the guest, so nothing here grows with what the guest does: the
//! end of the machine and the start of the agent happen once, and the rest waits in a queue of
//! fixed length.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};

use caisson_control::ExitReason;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Most happenings that wait for the control thread.
const QUEUE_LENGTH: usize = 64;

/// Most device faults reported in the life of a machine. A driver can reset its device and break
/// the rules again as often as it likes; the counters go on, the messages end.
const MAX_FAULT_REPORTS: u32 = 64;

/// Something that happened on another thread.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The guest connects to a port of the host.
    GuestConnected {
        /// The port.
        port: u32,
        /// The host's end of the connection.
        stream: OwnedFd,
    },
    /// The guest answered the connection request with this number.
    ConnectFinished {
        /// Number of the request.
        id: u64,
        /// Whether the guest accepted.
        accepted: bool,
    },
    /// A device stopped because its driver broke the rules.
    DeviceFault {
        /// Name of the device.
        device: &'static str,
        /// What was wrong.
        message: String,
    },
}

#[derive(Debug)]
struct Shared {
    exit: OnceLock<ExitReason>,
    agent_started: OnceLock<u64>,
    fault_reports: AtomicU32,
    wake: EventFd,
}

/// Tells the control thread. Clones go to all other threads.
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    shared: Arc<Shared>,
    queue: SyncSender<Happening>,
}

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct EventReceiver {
    shared: Arc<Shared>,
    queue: Receiver<Happening>,
}

/// Makes the two ends.
///
/// # Errors
/// Fails when the process has no descriptors left.
pub(crate) fn channel() -> io::Result<(EventSender, EventReceiver)> {
    let shared = Arc::new(Shared {
        exit: OnceLock::new(),
        agent_started: OnceLock::new(),
        fault_reports: AtomicU32::new(0),
        wake: EventFd::new(EFD_NONBLOCK)?,
    });
    let (sender, receiver) = std::sync::mpsc::sync_channel(QUEUE_LENGTH);
    Ok((
        EventSender {
            shared: Arc::clone(&shared),
            queue: sender,
        },
        EventReceiver {
            shared,
            queue: receiver,
        },
    ))
}

impl EventSender {
    /// The machine ended. The first reason counts.
    pub(crate) fn exit(&self, reason: ExitReason) {
        if self.shared.exit.set(reason).is_ok() {
            self.wake();
        }
    }

    /// The VMM or KVM cannot go on.
    pub(crate) fn fail(&self, message: String) {
        self.exit(ExitReason::Failed { message });
    }

    /// The guest's kernel started the agent, now. Later calls have no effect.
    pub(crate) fn agent_started(&self) {
        if self.shared.agent_started.set(monotonic_ns()).is_ok() {
            self.wake();
        }
    }

    /// A device stopped because of a fault.
    pub(crate) fn device_fault(&self, device: &'static str, message: String) {
        let reports = self.shared.fault_reports.fetch_add(1, Ordering::Relaxed);
        if reports < MAX_FAULT_REPORTS {
            // A report that finds the queue full is lost; the fault is in the counters.
            let _ = self.send(Happening::DeviceFault { device, message });
        }
    }

    /// Queues a happening.
    ///
    /// # Errors
    /// Gives it back when the queue is full or the control thread is gone.
    pub(crate) fn send(&self, happening: Happening) -> Result<(), Happening> {
        self.queue.try_send(happening).map_err(|error| match error {
            TrySendError::Full(happening) | TrySendError::Disconnected(happening) => happening,
        })?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the control thread is awake anyway.
        let _ = self.shared.wake.write(1);
    }
}

impl EventReceiver {
    /// The descriptor that becomes readable when there is something to look at.
    pub(crate) fn wake_fd(&self) -> &EventFd {
        &self.shared.wake
    }

    /// Makes the descriptor unreadable until the next event. To be called before looking.
    pub(crate) fn acknowledge(&self) {
        let _ = self.shared.wake.read();
    }

    /// Why the machine ended, if it did.
    pub(crate) fn exit_reason(&self) -> Option<&ExitReason> {
        self.shared.exit.get()
    }

    /// When the agent was started, if it was: `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) fn agent_started(&self) -> Option<u64> {
        self.shared.agent_started.get().copied()
    }

    /// The next happening in the queue.
    pub(crate) fn next(&self) -> Option<Happening> {
        self.queue.try_recv().ok()
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
#[path = "events_test.rs"]
mod tests;
