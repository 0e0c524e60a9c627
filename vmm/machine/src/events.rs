//! What the other threads tell the control thread.
//!
//! Much of this is brought about by the guest, so nothing here grows with what the guest does: the
//! end of the machine and the start of the agent happen once, and the rest waits in a queue that
//! takes only so much of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use caisson_control::ExitReason;
use rustix::event::EventfdFlags;

use crate::devices::balloon::BalloonEvents;
use crate::devices::vsock::VsockEvents;

/// Most happenings of the guest's making that wait for the control thread.
const QUEUE_LENGTH: usize = 64;

/// Most device faults reported in the life of a machine. A driver can reset its device and break
/// the rules again as often as it likes; the counters go on, the messages end.
const MAX_FAULT_REPORTS: u32 = 64;

/// Least time between two reports of memory pressure, in nanoseconds. A driver can fill and empty
/// its balloon as often as it likes; what happens in between is in the metrics.
const PRESSURE_INTERVAL: u64 = 1_000_000_000;

/// Something that happened on another thread.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The guest connects to a port of the host.
    GuestConnected {
        /// The port.
        port: u32,
        /// The host's end of the connection.
        stream: UnixStream,
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
    /// The guest took memory out of its balloon.
    MemoryPressure {
        /// What the balloon holds now, in MiB.
        balloon_mib: u32,
    },
}

#[derive(Debug)]
struct Shared {
    exit: OnceLock<ExitReason>,
    agent_started: OnceLock<u64>,
    fault_reports: AtomicU32,
    /// When the next report of memory pressure may follow.
    next_pressure: AtomicU64,
    queue: Mutex<VecDeque<Happening>>,
    wake: OwnedFd,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Happening>> {
        // A panic elsewhere does not make a queue wrong.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the control thread. Clones go to all other threads.
#[derive(Debug, Clone)]
pub(crate) struct EventSender(Arc<Shared>);

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct EventReceiver(Arc<Shared>);

/// Makes the two ends.
///
/// # Errors
/// Fails when the process has no descriptors left.
pub(crate) fn channel() -> io::Result<(EventSender, EventReceiver)> {
    let shared = Arc::new(Shared {
        exit: OnceLock::new(),
        agent_started: OnceLock::new(),
        fault_reports: AtomicU32::new(0),
        next_pressure: AtomicU64::new(0),
        queue: Mutex::default(),
        wake: rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
    });
    Ok((EventSender(Arc::clone(&shared)), EventReceiver(shared)))
}

impl EventSender {
    /// The machine ended. The first reason counts.
    pub(crate) fn exit(&self, reason: ExitReason) {
        if self.0.exit.set(reason).is_ok() {
            self.wake();
        }
    }

    /// The VMM or KVM cannot go on.
    pub(crate) fn fail(&self, message: String) {
        self.exit(ExitReason::Failed { message });
    }

    /// The guest's kernel started the agent, now. Later calls have no effect.
    pub(crate) fn agent_started(&self) {
        if self.0.agent_started.set(monotonic_ns()).is_ok() {
            self.wake();
        }
    }

    /// A device stopped because of a fault.
    pub(crate) fn device_fault(&self, device: &'static str, message: String) {
        let reports = self.0.fault_reports.fetch_add(1, Ordering::Relaxed);
        if reports < MAX_FAULT_REPORTS {
            self.offer(Happening::DeviceFault { device, message });
        }
    }

    /// The guest took memory out of its balloon at `now`, in nanoseconds.
    fn memory_pressure_at(&self, now: u64, balloon_mib: u32) {
        let next = now.saturating_add(PRESSURE_INTERVAL);
        // Only the io thread comes here, so that nobody stores anything in between.
        if now >= self.0.next_pressure.load(Ordering::Relaxed) {
            self.0.next_pressure.store(next, Ordering::Relaxed);
            self.offer(Happening::MemoryPressure { balloon_mib });
        }
    }

    /// Queues something of the guest's making. If the queue is full it is lost: a connection is
    /// closed by that, a fault is still in the counters.
    fn offer(&self, happening: Happening) {
        let mut queue = self.0.queue();
        if queue.len() < QUEUE_LENGTH {
            queue.push_back(happening);
            drop(queue);
            self.wake();
        }
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the control thread is awake anyway.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}

impl VsockEvents for EventSender {
    fn guest_connected(&self, port: u32, stream: UnixStream) {
        self.offer(Happening::GuestConnected { port, stream });
    }

    fn connect_finished(&self, request: u64, accepted: bool) {
        // Never lost: there are as many as the shim sent requests.
        let id = request;
        self.0
            .queue()
            .push_back(Happening::ConnectFinished { id, accepted });
        self.wake();
    }
}

impl BalloonEvents for EventSender {
    fn memory_pressure(&self, balloon_mib: u32) {
        self.memory_pressure_at(monotonic_ns(), balloon_mib);
    }
}

impl EventReceiver {
    /// Makes the descriptor unreadable until the next event. To be called before looking.
    pub(crate) fn acknowledge(&self) {
        let _ = rustix::io::read(&self.0.wake, &mut [0; 8]);
    }

    /// Why the machine ended, if it did.
    pub(crate) fn exit_reason(&self) -> Option<&ExitReason> {
        self.0.exit.get()
    }

    /// When the agent was started, if it was: `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) fn agent_started(&self) -> Option<u64> {
        self.0.agent_started.get().copied()
    }

    /// What is in the queue, which is empty afterwards.
    pub(crate) fn take(&self) -> VecDeque<Happening> {
        std::mem::take(&mut *self.0.queue())
    }
}

/// The descriptor becomes readable when there is something to look at.
impl AsFd for EventReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
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
