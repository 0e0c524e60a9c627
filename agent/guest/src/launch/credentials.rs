//! User, groups, capabilities and limits of a container's process (OCI runtime-spec, config.md,
//! "User", "LinuxCapabilities" and "POSIX-platform Process").

use std::io;

use libcontainer::capabilities::CapabilityExt;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType, User};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Highest capability that may exist; the kernel's set has 64 bits.
const CAPABILITIES: u32 = 64;

/// Becomes the user, keeping all permitted capabilities, which [`drop_capabilities`] takes later.
///
/// # Errors
/// What the system calls answer.
pub fn become_user(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    // Leaving uid 0 has cleared the effective set.
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn set_of(capabilities: Option<&Capabilities>) -> CapabilitySet {
    capabilities
        .into_iter()
        .flatten()
        .fold(CapabilitySet::empty(), |set, capability| {
            set | CapabilitySet::from_bits_retain(1 << capability.to_cap().index())
        })
}

/// Runs `check` with the effective capabilities the program will have, so that it sees files as the
/// program will.
///
/// # Errors
/// What the system calls answer.
pub fn with_effective<T>(
    capabilities: Option<&LinuxCapabilities>,
    check: impl FnOnce() -> T,
) -> io::Result<T> {
    let all = rustix::thread::capabilities(None)?;
    let wanted = set_of(capabilities.and_then(|sets| sets.effective().as_ref()));
    let reduced = CapabilitySets {
        effective: wanted & all.permitted,
        ..all
    };
    rustix::thread::set_capabilities(None, reduced)?;
    let result = check();
    rustix::thread::set_capabilities(None, all)?;
    Ok(result)
}

/// Gives up every capability that is not named. A set that is not there is empty.
///
/// # Errors
/// What the system calls answer.
pub fn drop_capabilities(capabilities: Option<&LinuxCapabilities>) -> io::Result<()> {
    let get = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        set_of(capabilities.and_then(|sets| set(sets).as_ref()))
    };
    let bounding = get(LinuxCapabilities::bounding);
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if bounding.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel does not know that many.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    // The kernel cannot give what the guest does not have.
    let have = rustix::thread::capabilities(None)?.permitted;
    let permitted = get(LinuxCapabilities::permitted) & have;
    let sets = CapabilitySets {
        effective: get(LinuxCapabilities::effective) & permitted,
        permitted,
        inheritable: get(LinuxCapabilities::inheritable) & have,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::clear_ambient_capability_set()?;
    let ambient = get(LinuxCapabilities::ambient) & sets.permitted & sets.inheritable;
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if ambient.contains(one) {
            rustix::thread::configure_capability_in_ambient_set(one, true)?;
        }
    }
    Ok(())
}

/// Sets the resource limits of the process.
///
/// # Errors
/// What `setrlimit(2)` answers, with the name of the limit.
pub fn set_limits(limits: &[PosixRlimit]) -> io::Result<()> {
    for limit in limits {
        // The specification's "unlimited" is the largest number, as in the system call.
        let value = |number: u64| (number != u64::MAX).then_some(number);
        let new = Rlimit {
            current: value(limit.soft()),
            maximum: value(limit.hard()),
        };
        rustix::process::setrlimit(resource(limit.typ()), new).map_err(|error| {
            io::Error::other(format!(
                "{} {}:{}: {error}",
                limit.typ(),
                limit.soft(),
                limit.hard()
            ))
        })?;
    }
    Ok(())
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

#[cfg(test)]
#[path = "credentials_test.rs"]
mod tests;
