//! The child that makes the process namespace of a pod whose containers share one: a first process
//! that does nothing but collect what is left to it, as the namespace ends with it.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, unmount};
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;

use super::create::write_failure;
use super::process::{Side, clone_sibling};
use super::report::{self, Report};
use crate::error::{AgentError, Doing};
use crate::signal;

/// Where the root of the new process is mounted first; any directory will do.
const PLACE: &str = "/run";

/// Makes the namespace and reports its first process.
///
/// # Errors
/// What the kernel answers.
pub fn run(report: &OwnedFd, failure: OwnedFd) -> Result<(), AgentError> {
    // Processes of the containers must not look into this one, which they see.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing("become invisible to the pod")?;
    let namespaces = UnshareFlags::NEWPID | UnshareFlags::NEWNS;
    // SAFETY: the table of descriptors stays as it is, and this program has no other thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
        .doing("make the process namespace of the pod")?;
    // The pid namespace is that of children, not of this process.
    match clone_sibling().doing("fork a process")? {
        Side::Caller(pid) => {
            report::send(report.as_fd(), &Report::Launched { pid }, None);
            Ok(())
        }
        Side::New => {
            if let Err(error) = leave_root().doing("leave the root of the guest") {
                write_failure(failure.as_fd(), error);
                // The report was the business of the process this is a copy of.
                std::process::exit(255)
            }
            // As by an exec: nothing has failed.
            drop(failure);
            hold()
        }
    }
}

fn hold() -> ! {
    signal::collect_no_children();
    // What the pod's containers see as process 1.
    let _ = rustix::thread::set_name(c"pod");
    loop {
        rustix::event::pause();
    }
}

/// A container with all capabilities can reach the root of every process it sees: that of this one
/// is empty.
fn leave_root() -> rustix::io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", PLACE, "tmpfs", flags, c"size=4k")?;
    rustix::process::chdir(PLACE)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)
}
