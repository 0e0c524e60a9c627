//! `caisson-vmm`: runs one machine for the shim that started it.
//!
//! It takes no arguments and reads no configuration: everything comes over the control channel,
//! which is descriptor 3, but for the user it is to be, which is written in descriptor 4. Before it
//! looks at anything else it locks itself in. It ends with status 0 after an orderly end, of the
//! machine or of the shim, and with status 1 and a line on standard error otherwise.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use caisson_control::{CONTROL_FD, Channel, IDENTITY_FD};

fn main() -> ExitCode {
    // SIGPIPE is ignored already: the Rust runtime does that before main.
    let (Some(socket), Some(identity)) = (inherited(CONTROL_FD), inherited(IDENTITY_FD)) else {
        eprintln!(
            "caisson-vmm: descriptors {CONTROL_FD} and {IDENTITY_FD} are not open. They must be the \
             control socket of the shim, which starts this program, and the file that says who it \
             is to be; it is not for use by hand"
        );
        return ExitCode::FAILURE;
    };
    match caisson_vmm::run(Channel::from(socket), File::from(identity)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caisson-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was inherited as `number`, if that is open.
fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the descriptor is only asked for its flags, which fails if it is not open; nothing
    // in this process can open or close it meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).ok()?;
    // SAFETY: the descriptor is open, and by contract it was given to us; nothing else here uses
    // it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
