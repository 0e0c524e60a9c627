//! Whether the shim of a bundle lives. The daemon holds a lock on the file `shim.pid` of the
//! bundle it was started for: the kernel lets go of it however the daemon ends, and a number that
//! was given to another process in the meantime cannot be mistaken for it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The file.
const NAME: &str = "shim.pid";
/// How long a killed shim may take to vanish. containerd gives `delete` 5 s in all.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// The mark of a living shim; held for its whole life.
#[derive(Debug)]
pub(crate) struct Mark(File);

impl Mark {
    /// Marks the bundle as served by this process.
    ///
    /// # Errors
    /// Fails when the file cannot be made or another shim holds it.
    pub(crate) fn set(bundle: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(bundle.join(NAME))?;
        file.try_lock()?;
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }

    /// Whether the file was removed, and the bundle with it.
    pub(crate) fn is_removed(&self) -> bool {
        self.0.metadata().is_ok_and(|file| file.nlink() == 0)
    }
}

/// What a bundle says of its shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// No shim was started for it: its container lives in the shim of another bundle, or nowhere.
    NoShim,
    /// Its shim is gone.
    Dead,
    /// Its shim lives.
    Alive,
}

impl Liveness {
    /// Looks at a bundle.
    pub(crate) fn of(bundle: &Path) -> Self {
        match File::open(bundle.join(NAME)) {
            Err(_) => Self::NoShim,
            Ok(file) => match file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => Self::Alive,
                _ => Self::Dead,
            },
        }
    }
}

/// Kills the shim of a bundle and waits until it is gone. Without a living shim does nothing.
///
/// # Errors
/// Fails when it cannot be killed or is not gone after 3 s.
pub(crate) fn kill(bundle: &Path) -> io::Result<()> {
    let mut file = match File::open(bundle.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at after the descriptor was opened: while the lock is held, it is the right process.
    file.rewind()?;
    match file.try_lock_shared() {
        Ok(()) => return Ok(()),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let Some(pidfd) = pidfd else {
        return Err(io::Error::other(format!(
            "a shim holds {NAME} of the bundle, but {text:?} in it is not its process id"
        )));
    };
    pidfd_send_signal(&pidfd, Signal::KILL)?;
    let timeout = Timespec {
        tv_sec: KILL_TIMEOUT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    // Readable when the process has ended (pidfd_open(2)).
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the shim, process {text}, was killed and is not gone after 3 s"),
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "liveness_test.rs"]
mod tests;
