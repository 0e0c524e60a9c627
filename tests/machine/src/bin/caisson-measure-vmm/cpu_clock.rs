//! The processor time of another process, to the nanosecond; `/proc` has it in ticks.

use std::io;
use std::time::Duration;

/// What all threads of a process have used, those that have ended too, in user and kernel mode and
/// in its guest.
///
/// # Errors
/// There is no such process.
pub(crate) fn used_by(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: it writes the number of a clock to where it is told.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes a timespec to where it is told.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
#[path = "cpu_clock_test.rs"]
mod tests;
