//! The time stamp of the kernel's end: one byte to an I/O port that the VMM watches.
#![allow(unsafe_code)]

use caisson_protocol::PHASE_PORT;

/// Tells the VMM that the kernel's part of the start is over. Does nothing where I/O ports may not
/// be used.
pub fn mark() {
    // SAFETY: asks for permission to use one port; nothing else happens.
    let permitted = unsafe { libc::ioperm(libc::c_ulong::from(PHASE_PORT), 1, 1) } == 0;
    if !permitted {
        return;
    }
    // SAFETY: the port was just permitted. It belongs to the VMM; on other machines nothing or a
    // floppy drive's status register is there, which ignores writing.
    unsafe {
        core::arch::asm!("out dx, al", in("dx") PHASE_PORT, in("al") 1_u8, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: as above; the permission is given back, so that no child inherits it.
    unsafe {
        libc::ioperm(libc::c_ulong::from(PHASE_PORT), 1, 0);
    }
}
