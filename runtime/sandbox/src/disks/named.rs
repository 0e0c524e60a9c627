//! Which block devices of the host a configuration names, and what it says once they are disks of
//! the guest.
//!
//! Who wants a container to have a device lists it and adds a rule with its number: CRI for
//! `volumeDevices`, docker, nerdctl and `ctr` for `--device`. For a privileged container every device
//! of the host is listed, and one rule allows everything. So a device is meant if there is a rule
//! with its number; and what the rule allows is what the container may do with it.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::DeviceNumber;

/// What a rule allows if it does not say.
const ANY_ACCESS: &str = "rwm";

/// A block device of the host that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedDisk {
    /// Its number on the host.
    pub(crate) number: DeviceNumber,
    /// Whether the container may write to it.
    pub(crate) writable: bool,
    /// Where the container sees it first; for errors.
    pub(crate) path: PathBuf,
}

/// The block devices that a configuration names, each once.
pub(crate) fn wanted(linux: &Linux) -> Vec<WantedDisk> {
    let mut wanted: Vec<WantedDisk> = Vec::new();
    for device in linux.devices().iter().flatten() {
        let Some(number) = named(device, rules(linux)) else {
            continue;
        };
        if wanted.iter().all(|other| other.number != number) {
            wanted.push(WantedDisk {
                number,
                writable: allows(rules(linux), number, 'w'),
                path: device.path().clone(),
            });
        }
    }
    wanted
}

/// The number of a block device that is meant for the container whose rules these are.
pub(crate) fn named(device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> Option<DeviceNumber> {
    if device.typ() != LinuxDeviceType::B {
        return None;
    }
    let number = DeviceNumber::new(device.major(), device.minor())?;
    let is_named = rules
        .iter()
        .any(|rule| rule.allow() && exactly(rule) == Some(number));
    let usable = || ['r', 'w'].iter().any(|way| allows(rules, number, *way));
    (is_named && usable()).then_some(number)
}

/// The rules about devices.
pub(crate) fn rules(linux: &Linux) -> &[LinuxDeviceCgroup] {
    let resources = linux.resources().as_ref();
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    rules.unwrap_or_default()
}

/// Replaces the numbers of the host, in devices and rules, by those that its block devices have in
/// the guest. Other numbers of block devices mean nothing there, or somebody else's disk.
pub(crate) fn renumber(linux: &mut Linux, places: &[(DeviceNumber, DeviceNumber)]) {
    let in_guest = |number: DeviceNumber| {
        let place = places.iter().find(|(host, _)| *host == number);
        place.map(|(_, guest)| *guest)
    };
    for device in linux.devices_mut().iter_mut().flatten() {
        if device.typ() == LinuxDeviceType::B
            && let Some(number) = DeviceNumber::new(device.major(), device.minor())
            && let Some(guest) = in_guest(number)
        {
            device
                .set_major(guest.major.into())
                .set_minor(guest.minor.into());
        }
    }
    let resources = linux.resources_mut().as_mut();
    let Some(rules) = resources.and_then(|resources| resources.devices_mut().as_mut()) else {
        return;
    };
    rules.retain_mut(|rule| match (kind(rule), exactly(rule).map(in_guest)) {
        (Kind::Other, _) => true,
        _ if part(rule.major()).is_none() && part(rule.minor()).is_none() => true,
        // About the character device of that number, too.
        (Kind::Any, _) => {
            rule.set_typ(Some(LinuxDeviceType::C));
            true
        }
        (Kind::Block, Some(Some(guest))) => {
            rule.set_major(Some(guest.major.into()))
                .set_minor(Some(guest.minor.into()));
            true
        }
        (Kind::Block, _) => false,
    });
}

/// What devices a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Any,
    Other,
}

fn kind(rule: &LinuxDeviceCgroup) -> Kind {
    match rule.typ().unwrap_or_default() {
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::A => Kind::Any,
        _ => Kind::Other,
    }
}

/// A part of a number in a rule, if it does not stand for all.
fn part(part: Option<i64>) -> Option<i64> {
    part.filter(|part| *part != -1)
}

/// The block device that a rule is about, if it is about one and nothing else.
fn exactly(rule: &LinuxDeviceCgroup) -> Option<DeviceNumber> {
    let (major, minor) = (part(rule.major())?, part(rule.minor())?);
    (kind(rule) == Kind::Block).then(|| DeviceNumber::new(major, minor))?
}

/// Whether a container may use a block device in this way: the last rule about that decides, as in
/// the kernel.
fn allows(rules: &[LinuxDeviceCgroup], number: DeviceNumber, way: char) -> bool {
    let is_about = |rule: &&LinuxDeviceCgroup| {
        let access = rule.access().as_deref().unwrap_or(ANY_ACCESS);
        let same = |of_rule, own: u32| part(of_rule).is_none_or(|part| part == i64::from(own));
        kind(rule) != Kind::Other
            && same(rule.major(), number.major)
            && same(rule.minor(), number.minor)
            && access.contains(way)
    };
    rules
        .iter()
        .rev()
        .find(is_about)
        .is_some_and(LinuxDeviceCgroup::allow)
}

#[cfg(test)]
#[path = "named_test.rs"]
mod tests;
