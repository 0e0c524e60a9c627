//! Starting a helper process with exactly the descriptors it is to have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::process::PidfdFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tokio::process::{Child, Command};

/// The first descriptor that a helper finds its files at; the others follow.
const FIRST_FD: RawFd = 3;
/// Pods outlive containerd, also when the whole of its service is stopped.
const IGNORED: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// What a helper does not share with us from its first instruction on. The rest it leaves itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Namespaces<'a> {
    /// The network namespace in which it runs, if not ours.
    pub(crate) network: Option<BorrowedFd<'a>>,
    /// Whether it is the first process of a pid namespace of its own: it sees no other, and what it
    /// starts ends with it.
    pub(crate) own_pids: bool,
}

/// Starts `program` without arguments and environment, in a process group of its own.
///
/// `files` become descriptors 3, 4, … in order; standard input is `/dev/null`, standard output and
/// standard error go to `output`; no other descriptor survives. The kernel kills it when the calling
/// thread ends; what systemd sends to every process of a service that it stops does not.
///
/// # Errors
/// Fails when the program cannot be executed, or a namespace cannot be made or entered.
pub(crate) fn spawn(
    program: &Path,
    files: &[BorrowedFd<'_>],
    output: &OwnedFd,
    namespaces: Namespaces<'_>,
) -> io::Result<Child> {
    let count = RawFd::try_from(files.len()).map_err(io::Error::other)?;
    let after_last = FIRST_FD + count;
    let _reserved = reserve(after_last)?;
    // Above the places that files go to, so that no dup2 overwrites one that is still needed. That
    // these are occupied does not help: another thread may give one back at any time.
    let above = |file: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(file, after_last);
    let sources = files
        .iter()
        .map(|file| Ok(above(*file)?))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let network = namespaces.network.map(above).transpose()?;
    // By its number the child could not ask for us from another pid namespace.
    let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let parent = above(parent.as_fd())?;

    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .kill_on_drop(true);
    let in_child = move || {
        if let Some(network) = &network {
            // SAFETY: setns takes two numbers; the descriptor is open until the exec.
            if unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for (number, source) in (FIRST_FD..).zip(&sources) {
            // SAFETY: dup2 takes two numbers; the source stays open until the exec.
            if unsafe { libc::dup2(source.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: close_range takes three numbers and closes nothing now; the standard library's
        // own pipe that reports a failed exec is close-on-exec already.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                after_last,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in IGNORED {
            // SAFETY: signal takes two numbers; what is ignored stays ignored over the exec.
            if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: PR_SET_PDEATHSIG takes one number.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have ended before the line above.
        let mut ended = libc::pollfd {
            fd: parent.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: poll looks at the one entry there is, and does not wait.
        match unsafe { libc::poll(&raw mut ended, 1, 0) } {
            0 => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: between fork and exec the closure makes only system calls that are
    // async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(in_child) };
    let own = namespaces
        .own_pids
        .then(PidNamespace::for_next_child)
        .transpose()?;
    let child = command.spawn();
    if let Some(own) = own {
        // If that fails, the child is killed by being dropped.
        own.restore()?;
    }
    child
}

/// Our own pid namespace, while children of this thread begin another.
struct PidNamespace(OwnedFd);

impl PidNamespace {
    /// The next child of this thread is the first process of a new pid namespace. Until
    /// [`PidNamespace::restore`] this thread can start no thread, and only that one process.
    fn for_next_child() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let ours = rustix::fs::open(c"/proc/self/ns/pid", flags, Mode::empty())?;
        // SAFETY: concerns the children of this thread only, and no memory or descriptors.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }?;
        Ok(Self(ours))
    }

    /// Children stay in ours again.
    fn restore(self) -> io::Result<()> {
        let kind = LinkNameSpaceType::ProcessID;
        Ok(rustix::thread::move_into_link_name_space(
            self.0.as_fd(),
            Some(kind),
        )?)
    }
}

/// Occupies the free descriptors from [`FIRST_FD`] up to `end`, so that the pipe by which the
/// standard library learns of a failed exec does not get one of these numbers.
fn reserve(end: RawFd) -> io::Result<Vec<OwnedFd>> {
    let null = rustix::fs::open(
        c"/dev/null",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut reserved = Vec::new();
    loop {
        let fd = rustix::io::fcntl_dupfd_cloexec(null.as_fd(), FIRST_FD)?;
        if fd.as_raw_fd() >= end {
            return Ok(reserved);
        }
        reserved.push(fd);
    }
}

#[cfg(test)]
#[path = "process_test.rs"]
mod tests;
