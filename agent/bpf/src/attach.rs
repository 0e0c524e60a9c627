//! Where programs are asked.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::Kind;
use crate::call::{Attributes, call, make, number};

/// Programs of groups below are asked as well; all must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

// SAFETY: it is the structure of this command, and has no addresses.
unsafe impl Attributes for Attach {
    const COMMAND: libc::c_long = 8;
}

/// Has a program of [`Kind::CgroupDevice`] asked for each use of a device by the processes of a
/// cgroup, as long as that exists.
///
/// # Errors
/// What `bpf(2)` answers.
pub fn attach_to_cgroup(program: &OwnedFd, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    call(&Attach {
        target: number(&cgroup)?,
        program: number(program)?,
        kind: Kind::CgroupDevice.attach(),
        flags: BPF_F_ALLOW_MULTI,
    })
    .map(drop)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

// SAFETY: it is the structure of this command, and has no addresses.
unsafe impl Attributes for LinkCreate {
    const COMMAND: libc::c_long = 28;
}

/// Has a program of [`Kind::SocketLookup`] asked in a network namespace, as long as the descriptor
/// that is returned is open.
///
/// # Errors
/// What `bpf(2)` answers; `EINVAL` from a kernel before 5.9.
pub fn link_to_network(program: &OwnedFd, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let link = LinkCreate {
        program: number(program)?,
        target: number(&netns)?,
        kind: Kind::SocketLookup.attach(),
        flags: 0,
    };
    // SAFETY: the command makes a descriptor.
    unsafe { make(&link) }
}
