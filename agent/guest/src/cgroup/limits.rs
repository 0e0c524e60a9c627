//! Turns the limits of the OCI specification (config-linux.md, "Control groups"), which speak of
//! cgroup v1, into the files of cgroup v2.

use std::collections::HashMap;
use std::io;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::Cgroup;
use crate::error::AgentError;

/// One value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    file: String,
    value: String,
    /// Whether the container may go without it: the guest's kernel or devices may not have it, and
    /// the promise of the limit is kept nevertheless.
    optional: bool,
}

fn must(file: &str, value: impl Into<String>) -> Setting {
    Setting {
        file: file.to_owned(),
        value: value.into(),
        optional: false,
    }
}

fn may(file: &str, value: impl Into<String>) -> Setting {
    Setting {
        optional: true,
        ..must(file, value)
    }
}

impl Cgroup {
    /// Applies the limits a specification asks for.
    ///
    /// Device rules are applied by [`Cgroup::restrict_devices`]. Real-time scheduling and kernel
    /// memory have no equivalent in cgroup v2 and are left out, as runc does.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] for a value that cannot be, or that the kernel refuses.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), AgentError> {
        for setting in settings(resources)? {
            let Setting {
                file,
                value,
                optional,
            } = setting;
            match self.write(&file, &value) {
                Ok(()) => {}
                Err(_) if optional => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(AgentError::InvalidArgument(format!(
                        "the guest kernel has no {file}, so the limit {value} cannot be kept"
                    )));
                }
                Err(error) => {
                    return Err(AgentError::InvalidArgument(format!(
                        "the kernel refuses {value:?} for {file}: {error}"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, AgentError> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        // 0 and -1 both stand for "unlimited" in the specification's history; runc agrees.
        let limit = pids.limit();
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        };
        settings.push(must("pids.max", value));
    }
    if let Some(io) = resources.block_io() {
        io_settings(io, &mut settings);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        if !limit
            .page_size()
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(AgentError::InvalidArgument(format!(
                "{:?} is no huge page size",
                limit.page_size()
            )));
        }
        // Zero huge pages may be had from a kernel without huge pages.
        let file = format!("hugetlb.{}.max", limit.page_size());
        settings.push(Setting {
            file,
            value: limit.limit().to_string(),
            optional: limit.limit() == 0,
        });
    }
    unified_settings(resources.unified().as_ref(), &mut settings)?;
    Ok(settings)
}

/// A limit in bytes, where -1 means that there is none.
fn bytes(what: &str, value: i64) -> Result<String, AgentError> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(AgentError::InvalidArgument(format!(
            "{what} cannot be {value}"
        ))),
    }
}

fn memory_settings(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), AgentError> {
    // 0 means "not set" in what docker and containerd send.
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    if let Some(limit) = limit {
        settings.push(must("memory.max", bytes("the memory limit", limit)?));
    }
    // v1 counts memory and swap together, v2 counts swap alone.
    let swap_alone = match (swap, limit) {
        (Some(swap), Some(limit)) if swap >= 0 && limit >= 0 => {
            let alone = swap.checked_sub(limit).filter(|alone| *alone >= 0).ok_or_else(|| {
                AgentError::InvalidArgument(format!(
                    "the limit of memory and swap together ({swap}) is below that of memory ({limit})"
                ))
            })?;
            Some(alone)
        }
        (Some(-1), _) => Some(-1),
        (Some(swap), _) if swap < -1 => {
            return Err(AgentError::InvalidArgument(format!(
                "the swap limit cannot be {swap}"
            )));
        }
        (Some(swap), _) => {
            return Err(AgentError::InvalidArgument(format!(
                "a limit of memory and swap together ({swap}) needs a limit of memory"
            )));
        }
        (None, _) => None,
    };
    if let Some(swap) = swap_alone {
        // A guest without swap keeps every limit of swap.
        settings.push(may("memory.swap.max", bytes("the swap limit", swap)?));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        settings.push(must(
            "memory.low",
            bytes("the memory reservation", reservation)?,
        ));
    }
    Ok(())
}

fn cpu_settings(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        settings.push(must("cpu.weight", cpu_weight(shares).to_string()));
    }
    if let Some(idle) = cpu.idle() {
        settings.push(must("cpu.idle", idle.to_string()));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        // The default of the kernel, in microseconds.
        let period = period.unwrap_or(100_000);
        settings.push(must("cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(must("cpu.max.burst", burst.to_string()));
    }
    // The numbers are those of the host's processors and memory nodes. The guest's own few are
    // numbered from 0, and the host's cpuset has already been applied to the virtual machine.
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        settings.push(may("cpuset.cpus", cpus.as_str()));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        settings.push(may("cpuset.mems", mems.as_str()));
    }
}

/// Maps v1 shares (2 to 262144, default 1024) to a v2 weight (1 to 10000, default 100), so that the
/// ends and the defaults meet: a parabola through the three points on logarithmic axes, the same
/// that runc and systemd have agreed upon.
fn cpu_weight(shares: u64) -> u64 {
    let exponent = (shares.clamp(2, 262_144) as f64).log2();
    let weight = 10_f64
        .powf((exponent * exponent + 125.0 * exponent) / 612.0 - 7.0 / 34.0)
        .ceil();
    (weight as u64).clamp(1, 10_000)
}

fn io_settings(io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    // All of it is optional: the disks of the specification are those of the host, most of which
    // the guest does not have.
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        // v1: 10 to 1000, v2: 1 to 10000.
        let weight = 1 + (u64::from(weight).saturating_sub(10)) * 9_999 / 990;
        settings.push(may(
            "io.weight",
            format!("default {}", weight.clamp(1, 10_000)),
        ));
    }
    let mut throttle = |devices: &Option<Vec<LinuxThrottleDevice>>, key: &str| {
        for device in devices.iter().flatten() {
            let value = format!(
                "{}:{} {key}={}",
                device.major(),
                device.minor(),
                device.rate()
            );
            settings.push(may("io.max", value));
        }
    };
    throttle(io.throttle_read_bps_device(), "rbps");
    throttle(io.throttle_write_bps_device(), "wbps");
    throttle(io.throttle_read_iops_device(), "riops");
    throttle(io.throttle_write_iops_device(), "wiops");
}

fn unified_settings(
    unified: Option<&HashMap<String, String>>,
    settings: &mut Vec<Setting>,
) -> Result<(), AgentError> {
    for (file, value) in unified.into_iter().flatten() {
        // Interface files have a controller's name and a dot; anything else could leave the group.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
        if file.starts_with('.') || !file.contains('.') || !file.bytes().all(plain) {
            return Err(AgentError::InvalidArgument(format!(
                "{file:?} is no cgroup v2 file"
            )));
        }
        if file.starts_with("cgroup.") {
            return Err(AgentError::InvalidArgument(format!(
                "{file:?} is not a limit and is not for a container to set"
            )));
        }
        settings.push(must(file, value.as_str()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod tests;
