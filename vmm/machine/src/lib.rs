//! Caisson's virtual machine monitor.
//!
//! One process runs one machine. It is told what to do, and given every file it may touch, over
//! the control channel (`caisson-control`); it opens nothing by path.
//!
//! ```text
//!   main ── control channel, epoll ──▶ machine::Machine ──▶ vcpu threads ──▶ bus
//!                                          │                                 ├─ pci ── virtio ─┐
//!                                          │                                 └─ ports          │
//!                                          └──▶ io thread ◀── activated devices ───────────────┘
//! ```

#![deny(missing_docs)]

mod boot;
mod bus;
mod console;
mod control;
mod devices;
mod events;
mod filter;
#[cfg(test)]
mod fuzz;
mod io_thread;
mod jail;
mod machine;
mod memory;
mod pci;
mod rate_limit;
mod serial;
#[cfg(test)]
mod test_kvm;
mod vcpu;
mod virtio;
mod vm;

pub use control::ControlError;
pub use filter::Allowance;
pub use jail::JailError;

use std::fs::File;

use caisson_control::Channel;

/// The kernel command line on which everything here relies or by which the guest starts faster.
/// What a user adds goes behind it.
///
/// - `console=ttyS0 loglevel=1 8250.nr_uarts=1`: the serial port exists but nothing is
///   printed on it but a panic, because every byte costs two exits.
/// - `panic=-1 reboot=t`: a panic resets at once, by triple fault, for there is no firmware and no
///   keyboard controller to ask.
/// - `pci=conf1,noearly`: use the configuration mechanism there is, without probing for others, and
///   do not search all buses for chipsets with faults (138 reads).
/// - `noreplace-smp`: keep lock prefixes instead of patching thousands of places for one vCPU.
pub const COMMAND_LINE: &str = "console=ttyS0 loglevel=1 8250.nr_uarts=1 panic=-1 reboot=t \
                                pci=conf1,noearly noreplace-smp";

/// Why the VMM ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not lock itself in.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The conversation with the shim ended in the wrong way.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Locks the process in as the user whose number is in `identity`, and runs the VMM for the shim at
/// the other end of `channel` until the machine has ended, or the shim has closed its end. The
/// process should end then. It must have one thread, and no descriptors but these two and the
/// standard three are left to it.
///
/// # Errors
/// Fails when the process cannot be locked in, when the control channel fails, or when the shim does
/// not keep to the protocol. What is wrong with a request is not an error but an answer to it.
pub fn run(channel: Channel, identity: File) -> Result<(), Error> {
    let started = events::monotonic_ns();
    // Open until the end: its lock says that the number is in use.
    let _identity = jail::enter(identity)?;
    Ok(control::serve(channel, started)?)
}
