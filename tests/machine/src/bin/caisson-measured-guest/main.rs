//! The first program of a guest whose start is measured, and the least that one can be: a byte to
//! the phase port, which the host's tracepoint sees whatever the VMM, a connection to the host where
//! there is vsock, and sleep.
#![cfg_attr(not(test), no_main)]
#![allow(unsafe_code)]

use caisson_machine_tests::{HELLO_PORT, vsock};

/// Where the agent marks the end of the kernel's part of the start, too.
const PHASE_PORT: u16 = 0x3f0;

/// Entry point of the C library. Not Rust's: that would abort in a guest without a console.
// SAFETY: the C library calls the one function of this name.
#[cfg_attr(not(test), unsafe(export_name = "main"))]
extern "C" fn first_program() -> libc::c_int {
    if std::process::id() != 1 {
        return 2;
    }
    mark();
    // Open for good; a VMM without vsock has shown what it can.
    let _hello = vsock::connect(vsock::HOST, HELLO_PORT);
    loop {
        std::thread::park();
    }
}

fn mark() {
    // SAFETY: asks for permission to use one port; nothing else happens.
    if unsafe { libc::ioperm(PHASE_PORT.into(), 1, 1) } != 0 {
        return;
    }
    // SAFETY: the port was just permitted, and on no VMM is there anything that a byte could harm.
    unsafe {
        core::arch::asm!("out dx, al", in("dx") PHASE_PORT, in("al") 1_u8, options(nomem, nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_does_nothing_outside_a_guest() {
        assert_eq!(super::first_program(), 2);
    }
}
