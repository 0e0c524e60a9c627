//! `caisson-vmm`: runs one machine for the shim that started it.
//!
//! It takes no arguments and reads no files: everything comes over the control channel, which is
//! descriptor 3. It ends with status 0 after an orderly end, of the machine or of the shim, and
//! with status 1 and a line on standard error otherwise.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

use caisson_control::{CONTROL_FD, Channel};

fn main() -> ExitCode {
    // SIGPIPE is ignored already: the Rust runtime does that before main.
    let Some(socket) = inherited() else {
        eprintln!(
            "caisson-vmm: descriptor {CONTROL_FD} is not open. It must be the control socket of \
             the shim, which starts this program; it is not for use by hand"
        );
        return ExitCode::FAILURE;
    };
    match caisson_vmm::run(Channel::from(socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caisson-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The control socket, if the descriptor is open.
fn inherited() -> Option<OwnedFd> {
    // SAFETY: the descriptor is only asked for its flags, which fails if it is not open; nothing
    // in this process can open or close it meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    rustix::io::fcntl_getfd(fd).ok()?;
    // SAFETY: the descriptor is open, and by contract it was given to us; nothing else here uses
    // it.
    Some(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) })
}
