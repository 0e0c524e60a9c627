//! What the kernel lets the process do beyond what it lets everybody.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use crate::{JailError, step};

/// Leaves all supplementary groups and gives up every capability but `kept`, for good: also those
/// that the execution of a program would give.
///
/// # Errors
/// Fails without the privilege to change any of that.
pub fn keep_capabilities(kept: CapabilitySet) -> Result<(), JailError> {
    step("leave its groups", rustix::thread::set_thread_groups(&[]))?;
    step(
        "renounce new privileges",
        rustix::thread::set_no_new_privs(true),
    )?;
    restrict(kept)?;
    set(kept)
}

/// Leaves all supplementary groups, becomes user and group `id`, and gives up every capability, for
/// good. Nobody but root can look into the process from then on.
///
/// # Errors
/// Fails without the privilege for that.
pub fn become_user(id: u32) -> Result<(), JailError> {
    step("leave its groups", rustix::thread::set_thread_groups(&[]))?;
    step(
        "renounce new privileges",
        rustix::thread::set_no_new_privs(true),
    )?;
    restrict(CapabilitySet::empty())?;
    let (group, user) = (Gid::from_raw(id), Uid::from_raw(id));
    step(
        "change its group",
        rustix::thread::set_thread_res_gid(group, group, group),
    )?;
    step(
        "change its user",
        rustix::thread::set_thread_res_uid(user, user, user),
    )?;
    // What is inheritable stays when the user changes.
    set(CapabilitySet::empty())?;
    step(
        "keep others from looking in",
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable),
    )
}

/// Has the kernel kill the process when its parent ends. A change of the user takes that back, so
/// it must come after one; that the parent ended before shows in some other way.
///
/// # Errors
/// Has no reason to fail.
pub fn die_with_parent() -> Result<(), JailError> {
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    step("ask for its end with that of its parent", asked)
}

/// Takes every capability but `kept` out of the bounding set.
fn restrict(kept: CapabilitySet) -> Result<(), JailError> {
    // By number, not by name: the kernel may know capabilities that our library does not.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            result => step("restrict its capabilities", result)?,
        }
    }
    Ok(())
}

fn set(kept: CapabilitySet) -> Result<(), JailError> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    step(
        "drop capabilities",
        rustix::thread::set_capabilities(None, sets),
    )
}
