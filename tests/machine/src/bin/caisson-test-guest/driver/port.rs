//! I/O ports.
#![allow(unsafe_code)]

use std::arch::asm;
use std::cell::Cell;
use std::io;

use super::no_such_width;

thread_local! {
    /// Whether this thread may use all ports.
    static ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// Writes 1, 2 or 4 bytes.
///
/// # Errors
/// When the kernel does not let us.
pub(super) fn write(port: u16, width: u8, value: u32) -> io::Result<()> {
    allow()?;
    match width {
        // SAFETY: what is behind the ports has nothing to do with our memory.
        1 => unsafe { asm!("out dx, al", in("dx") port, in("al") value as u8, options(nostack)) },
        // SAFETY: as above.
        2 => unsafe { asm!("out dx, ax", in("dx") port, in("ax") value as u16, options(nostack)) },
        // SAFETY: as above.
        4 => unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) },
        _ => return Err(no_such_width()),
    }
    Ok(())
}

/// Reads 1, 2 or 4 bytes.
///
/// # Errors
/// When the kernel does not let us.
pub(super) fn read(port: u16, width: u8) -> io::Result<u32> {
    allow()?;
    let mut value = 0_u32;
    match width {
        // SAFETY: what is behind the ports has nothing to do with our memory.
        1 => unsafe { asm!("in al, dx", in("dx") port, inout("eax") value, options(nostack)) },
        // SAFETY: as above.
        2 => unsafe { asm!("in ax, dx", in("dx") port, inout("eax") value, options(nostack)) },
        // SAFETY: as above.
        4 => unsafe { asm!("in eax, dx", in("dx") port, inout("eax") value, options(nostack)) },
        _ => return Err(no_such_width()),
    }
    Ok(value)
}

fn allow() -> io::Result<()> {
    if ALLOWED.get() {
        return Ok(());
    }
    // SAFETY: iopl takes one number; what the ports may do is the point.
    if unsafe { libc::iopl(3) } != 0 {
        return Err(io::Error::last_os_error());
    }
    ALLOWED.set(true);
    Ok(())
}
