//! What a Linux system needs before anything else runs in it, done by PID 1 itself.

pub mod kernel;
pub mod loopback;
pub mod mounts;
pub mod phase;
pub mod pieces;
pub mod power;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};

/// Makes sure that descriptors 0, 1 and 2 are taken, so that no later file becomes a standard
/// stream. Without a console the kernel starts PID 1 with none. Needs `/dev/null`.
///
/// # Errors
/// What `open(2)` answers.
pub fn fill_standard_streams() -> io::Result<()> {
    loop {
        // The lowest free number is taken first.
        let file = File::options().read(true).write(true).open("/dev/null")?;
        if file.as_raw_fd() > 2 {
            return Ok(());
        }
        // Stays open for good.
        let _ = file.into_raw_fd();
    }
}
