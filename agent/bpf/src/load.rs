//! Programs and maps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::call::{Attributes, call, make, number};

const BPF_MAP_TYPE_SOCKMAP: u32 = 15;

/// What a program is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whether a process may use a device.
    CgroupDevice,
    /// Which socket a connection is for (Documentation/bpf/prog_sk_lookup.rst).
    SocketLookup,
}

impl Kind {
    /// `BPF_PROG_TYPE_…`.
    const fn program(self) -> u32 {
        match self {
            Self::CgroupDevice => 15,
            Self::SocketLookup => 30,
        }
    }

    /// `BPF_CGROUP_DEVICE`, `BPF_SK_LOOKUP`.
    pub(crate) const fn attach(self) -> u32 {
        match self {
            Self::CgroupDevice => 6,
            Self::SocketLookup => 36,
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

// SAFETY: it is the structure of this command; the instructions are as many as `count`, and the
// licence ends with zero. Both are set where the structure is made, below.
unsafe impl Attributes for ProgramLoad {
    const COMMAND: libc::c_long = 5;
}

/// Loads a program.
///
/// # Errors
/// What `bpf(2)` answers; `EINVAL` or `ENOSYS` from a kernel that cannot do it, `EACCES` for a
/// program that it does not understand.
pub fn load(kind: Kind, program: &[u64]) -> io::Result<OwnedFd> {
    // Nothing in our programs is only for the GPL.
    let license = c"Apache-2.0";
    let load = ProgramLoad {
        kind: kind.program(),
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        attach_type: kind.attach(),
        ..ProgramLoad::default()
    };
    // SAFETY: the command makes a descriptor.
    unsafe { make(&load) }
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

// SAFETY: it is the structure of this command, and has no addresses.
unsafe impl Attributes for MapCreate {
    const COMMAND: libc::c_long = 0;
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    _unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

// SAFETY: it is the structure of this command; key and value are of the sizes with which the map
// was made, below.
unsafe impl Attributes for MapUpdate {
    const COMMAND: libc::c_long = 2;
}

/// Makes a map with one entry, 0, which is `socket`.
///
/// # Errors
/// What `bpf(2)` answers; `EINVAL` from a kernel without such maps.
pub fn socket_map(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let map = MapCreate {
        kind: BPF_MAP_TYPE_SOCKMAP,
        key_size: 4,
        value_size: 8,
        entries: 1,
    };
    // SAFETY: the command makes a descriptor.
    let map = unsafe { make(&map)? };
    let (key, value) = (0_u32, u64::from(number(&socket)?));
    let update = MapUpdate {
        map: number(&map)?,
        _unused: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    call(&update)?;
    Ok(map)
}
