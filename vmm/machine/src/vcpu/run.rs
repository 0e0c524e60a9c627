//! The thread of a vCPU: enter the guest, do what it asks for, enter again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use caisson_control::ExitReason;
use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::gate::Gate;
use super::kick::{Kickable, ThreadId};
use crate::bus::Bus;
use crate::events::EventSender;
use crate::filter::{self, Kind};

/// Stack of a vCPU thread. The devices it calls keep little on it.
const STACK_SIZE: usize = 256 * 1024;

/// How often KVM may send a vCPU back that has not begun to run. It does so at each step of a start, of
/// which there are two.
const STEPS: u32 = 8;
/// How long a vCPU rests that takes more steps than that.
const REST: Duration = Duration::from_millis(1);

/// All vCPUs of a machine.
pub(crate) struct Vcpus {
    threads: Vec<Thread>,
    gate: Arc<Gate>,
    bus: Arc<Bus>,
    events: EventSender,
}

struct Thread {
    handle: JoinHandle<()>,
    id: ThreadId,
    exits: Arc<AtomicU64>,
}

/// Why a vCPU left the guest for good.
enum End {
    /// The machine ends anyway.
    Stopped,
    /// The guest reset or shut itself down.
    Shutdown,
    /// It cannot go on.
    Failed(String),
}

impl Vcpus {
    /// No vCPU yet. Those that are added wait until [`Vcpus::enter`] is called.
    pub(crate) fn new(bus: Arc<Bus>, events: EventSender) -> Self {
        Self {
            threads: Vec::new(),
            gate: Arc::default(),
            bus,
            events,
        }
    }

    /// Starts the thread of another vCPU.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(crate) fn add(&mut self, vcpu: VcpuFd) -> io::Result<()> {
        let index = self.threads.len();
        let exits = Arc::new(AtomicU64::new(0));
        let runner = Runner {
            index,
            bus: Arc::clone(&self.bus),
            events: self.events.clone(),
            gate: Arc::clone(&self.gate),
            exits: Arc::clone(&exits),
        };
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let handle = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK_SIZE)
            .spawn(move || {
                let vcpu = Kickable::new(vcpu);
                // We wait for it.
                let _ = sender.send(ThreadId::current());
                match filter::enter(Kind::Vcpu) {
                    Ok(()) => runner.run(vcpu),
                    Err(error) => runner.refused(&error),
                }
            })?;
        let id = receiver.recv().map_err(io::Error::other)?;
        self.threads.push(Thread { handle, id, exits });
        Ok(())
    }

    /// Number of vCPUs.
    pub(crate) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Lets all vCPUs enter the guest.
    pub(crate) fn enter(&self) {
        self.gate.open();
    }

    /// Gets all vCPUs out of the guest, between two instructions, until [`Vcpus::enter`].
    pub(crate) fn pause(&self) {
        self.gate.close();
        self.kick();
        self.gate.wait_for_outside(self.threads.len());
    }

    /// Exits from guest mode to us so far, of each vCPU.
    pub(crate) fn exits(&self) -> Vec<u64> {
        let exits = |thread: &Thread| thread.exits.load(Ordering::Relaxed);
        self.threads.iter().map(exits).collect()
    }

    /// Gets all vCPUs out of the guest and ends their threads.
    pub(crate) fn stop(&mut self) {
        self.gate.end();
        self.kick();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended too.
            let _ = thread.handle.join();
        }
    }

    fn kick(&self) {
        for thread in &self.threads {
            thread.id.kick();
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a vCPU thread works with.
struct Runner {
    index: usize,
    bus: Arc<Bus>,
    events: EventSender,
    gate: Arc<Gate>,
    exits: Arc<AtomicU64>,
}

/// A vCPU that is no longer run would only be missing in the guest, without a word.
impl Drop for Runner {
    fn drop(&mut self) {
        if thread::panicking() {
            let index = self.index;
            self.events
                .fail(format!("the thread of vcpu{index} panicked"));
        }
        self.gate.leave();
    }
}

impl Runner {
    fn refused(&self, error: &io::Error) {
        let index = self.index;
        self.events.fail(format!(
            "vcpu{index}: cannot set its system call filter: {error}"
        ));
    }

    fn run(&self, mut vcpu: Kickable) {
        match self.enter_until_end(&mut vcpu) {
            End::Stopped => {}
            End::Shutdown => self.events.exit(ExitReason::Shutdown),
            End::Failed(message) => self.events.fail(format!("vcpu{}: {message}", self.index)),
        }
    }

    fn enter_until_end(&self, vcpu: &mut Kickable) -> End {
        while self.gate.pass() {
            // Tells the guest's watchdogs that it was not they who stood still. KVM refuses where
            // the guest has no clock of KVM's, as at the start, and then there is nothing to tell.
            let _ = vcpu.vcpu().kvmclock_ctrl();
            if let Some(end) = self.enter_until_closed(vcpu) {
                return end;
            }
        }
        End::Stopped
    }

    /// Runs the guest as long as the gate is open.
    fn enter_until_closed(&self, vcpu: &mut Kickable) -> Option<End> {
        let mut steps = 0;
        while self.gate.is_open() {
            let end = match vcpu.vcpu().run() {
                Ok(exit) => {
                    steps = 0;
                    self.exits.fetch_add(1, Ordering::Relaxed);
                    self.handle(exit)
                }
                Err(error) if error.errno() == libc::EINTR => {
                    vcpu.clear();
                    None
                }
                Err(error) if error.errno() == libc::EAGAIN => {
                    // A vCPU that was never started sleeps in KVM; but one to which the guest has sent
                    // an NMI, KVM sends back for ever, at once.
                    steps += 1;
                    if steps > STEPS {
                        self.gate.rest(REST);
                    }
                    None
                }
                Err(error) => Some(End::Failed(format!("KVM_RUN failed: {error}"))),
            };
            match end {
                None => {}
                Some(End::Failed(message)) => return Some(End::Failed(explain(&message, vcpu))),
                Some(end) => return Some(end),
            }
        }
        None
    }

    /// Does what the guest asks for; the end, if it asks for that.
    fn handle(&self, exit: VcpuExit<'_>) -> Option<End> {
        match exit {
            VcpuExit::IoIn(port, data) => self.bus.port_read(port, data),
            VcpuExit::IoOut(port, data) => self.bus.port_write(port, data),
            VcpuExit::MmioRead(address, data) => self.bus.memory_read(address, data),
            VcpuExit::MmioWrite(address, data) => self.bus.memory_write(address, data),
            // A triple fault, which is how the guest's kernel resets a machine without firmware.
            VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => return Some(End::Shutdown),
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            VcpuExit::FailEntry(reason, cpu) => {
                return Some(End::Failed(format!(
                    "KVM cannot enter the guest: hardware reason {reason:#x} on CPU {cpu}"
                )));
            }
            VcpuExit::InternalError => {
                return Some(End::Failed("KVM internal error".to_owned()));
            }
            other => return Some(End::Failed(format!("unexpected exit {other:?}"))),
        }
        None
    }
}

/// Adds to a failure where the guest was, and KVM's own numbers.
fn explain(message: &str, vcpu: &mut Kickable) -> String {
    let details = internal_error(vcpu.vcpu().get_kvm_run());
    let place = match vcpu.vcpu().get_regs() {
        Ok(registers) => format!("rip {:#x}", registers.rip),
        Err(error) => format!("registers unknown: {error}"),
    };
    format!("{message}{details}; {place}")
}

/// Suberror and data of an internal error.
#[allow(unsafe_code)]
fn internal_error(run: &kvm_run) -> String {
    if run.exit_reason != kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
        return String::new();
    }
    // SAFETY: the exit reason says that this is the field of the union that KVM filled in; all
    // bit patterns are valid for it.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX);
    let data: Vec<u64> = internal.data.into_iter().take(count).collect();
    format!(" {}, data {data:x?}", internal.suberror)
}

#[cfg(test)]
#[path = "run_test.rs"]
mod tests;
