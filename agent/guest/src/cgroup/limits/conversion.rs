//! From the fields of the specification to values for the files.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Current, Setting};
use crate::error::AgentError;

pub(super) fn must(field: &str, file: &str, value: impl Into<String>) -> Setting {
    Setting {
        field: field.to_owned(),
        file: file.to_owned(),
        value: value.into(),
        optional: false,
    }
}

fn may(field: &str, file: &str, value: impl Into<String>) -> Setting {
    Setting {
        optional: true,
        ..must(field, file, value)
    }
}

/// What `resources` asks for, in the order in which it is to be written.
pub(super) fn settings(
    resources: &LinuxResources,
    current: &Current,
) -> Result<Vec<Setting>, AgentError> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_settings(memory, current, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, current, &mut settings)?;
    }
    if let Some(pids) = resources.pids() {
        // 0 and -1 both stand for "unlimited" in the specification's history; runc agrees.
        let limit = pids.limit();
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        };
        settings.push(must("pids.limit", "pids.max", value));
    }
    if let Some(io) = resources.block_io() {
        io_settings(io, &mut settings);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(wrong(
                "hugepageLimits.pageSize",
                format_args!("is {size:?}, which is no size of a huge page"),
            ));
        }
        settings.push(Setting {
            field: "hugepageLimits".to_owned(),
            file: format!("hugetlb.{size}.max"),
            value: limit.limit().to_string(),
            // Zero huge pages may be had from a kernel without huge pages.
            optional: limit.limit() == 0,
        });
    }
    unified_settings(resources.unified().as_ref(), &mut settings)?;
    Ok(settings)
}

/// A limit in bytes, where -1 means that there is none.
fn bytes(field: &str, value: i64) -> Result<String, AgentError> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(wrong(
            field,
            format_args!("is {value}; it can be -1 for no limit, or a number of bytes"),
        )),
    }
}

fn memory_settings(
    memory: &LinuxMemory,
    current: &Current,
    settings: &mut Vec<Setting>,
) -> Result<(), AgentError> {
    // 0 means "not set" in what docker and containerd send.
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    if let Some(limit) = limit {
        let value = bytes("memory.limit", limit)?;
        let checked = memory.check_before_update() == Some(true);
        if checked && (0..current.memory_used).contains(&limit) {
            return Err(wrong(
                "memory.limit",
                format_args!(
                    "is {limit}, less than the {} bytes that the container uses now",
                    current.memory_used
                ),
            ));
        }
        settings.push(must("memory.limit", "memory.max", value));
    }
    if let Some(swap) = swap_alone(swap, limit, current)? {
        // A guest without swap keeps every limit of swap.
        let value = bytes("memory.swap", swap)?;
        settings.push(may("memory.swap", "memory.swap.max", value));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        let value = bytes("memory.reservation", reservation)?;
        settings.push(must("memory.reservation", "memory.low", value));
    }
    Ok(())
}

/// The limit of swap alone: v1 counts memory and swap together, v2 apart.
fn swap_alone(
    swap: Option<i64>,
    limit: Option<i64>,
    current: &Current,
) -> Result<Option<i64>, AgentError> {
    let Some(swap) = swap else {
        // Without a limit of memory there can be none of both together.
        return Ok(limit.filter(|limit| *limit == -1));
    };
    if swap < 0 {
        // -1, or an error that is told where the number is turned into words.
        return Ok(Some(swap));
    }
    let Some(limit) = limit.or(current.memory_limit).filter(|limit| *limit >= 0) else {
        return Err(wrong(
            "memory.swap",
            format_args!(
                "is {swap}: a limit of memory and swap together needs a limit of memory \
                 (memory.limit)"
            ),
        ));
    };
    match swap.checked_sub(limit) {
        Some(alone @ 0..) => Ok(Some(alone)),
        _ => Err(wrong(
            "memory.swap",
            format_args!(
                "is {swap}: the limit of memory and swap together is below that of memory, {limit}"
            ),
        )),
    }
}

fn cpu_settings(
    cpu: &LinuxCpu,
    current: &Current,
    settings: &mut Vec<Setting>,
) -> Result<(), AgentError> {
    if let Some(idle) = cpu.idle() {
        settings.push(must("cpu.idle", "cpu.idle", idle.to_string()));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let weight = cpu_weight(shares).to_string();
        settings.push(must("cpu.shares", "cpu.weight", weight));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) => "max".to_owned(),
            None => current.cpu_quota.clone(),
        };
        let period = period.unwrap_or(current.cpu_period);
        settings.push(must(
            "cpu.quota and cpu.period",
            "cpu.max",
            format!("{quota} {period}"),
        ));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(must("cpu.burst", "cpu.max.burst", burst.to_string()));
    }
    // The numbers may be those of the host's processors and memory nodes. What the guest has, it
    // keeps to; the others are the host's business.
    for (field, file, list) in [
        ("cpu.cpus", "cpuset.cpus", cpu.cpus()),
        ("cpu.mems", "cpuset.mems", cpu.mems()),
    ] {
        let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else {
            continue;
        };
        if !is_number_list(list) {
            return Err(wrong(
                field,
                format_args!("is {list:?}, which is no list of numbers such as \"0-2,4\""),
            ));
        }
        settings.push(may(field, file, list.as_str()));
    }
    Ok(())
}

/// Whether this is a list of numbers and ranges, as `cpuset.cpus` takes it.
fn is_number_list(list: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    list.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
        None => number(part).is_some(),
    })
}

/// Maps v1 shares (2 to 262144, default 1024) to a v2 weight (1 to 10000, default 100), so that the
/// ends and the defaults meet: a parabola through the three points on logarithmic axes, the same
/// that runc and systemd have agreed upon.
pub(super) fn cpu_weight(shares: u64) -> u64 {
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
            "blockIO.weight",
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
            settings.push(may("blockIO", "io.max", value));
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
            return Err(wrong(
                "unified",
                format_args!("has {file:?}, which is no cgroup v2 file"),
            ));
        }
        if file.starts_with("cgroup.") {
            return Err(wrong(
                "unified",
                format_args!("has {file:?}, which is no limit and not for a container to set"),
            ));
        }
        settings.push(must(&format!("unified[{file:?}]"), file, value.as_str()));
    }
    Ok(())
}

fn wrong(field: &str, problem: impl std::fmt::Display) -> AgentError {
    AgentError::InvalidArgument(format!("linux.resources.{field} {problem}"))
}
