//! How large a machine a pod needs.
//!
//! What the specification says is what the application gets: memory is the pod's limit and what
//! the guest itself needs beside it; vCPUs are the CPU limit rounded up. The exact limits are
//! enforced by the guest's cgroups. Without limits the configuration's defaults hold.
//!
//! A machine that runs can grow to the configuration's most: when the limits of its containers
//! together are beyond the size it was booted with, and back to that when they are not any more. Unless
//! the configuration says otherwise, its memory can become the host's: that costs nothing before it happens,
//! and what the pod may have is for those to say who give it limits.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources, Spec};

use crate::Config;
use crate::config::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};

/// MiB that the guest's kernel, its page structures, the agent and one container's own
/// bookkeeping may take beside the pod's limit. The page structures are 1/64 of the memory and
/// come on top.
const GUEST_OVERHEAD_MIB: u64 = 96;
/// Guest memory is made of pages of 2 MiB.
const GRANULE_MIB: u64 = 2;
/// Memory is added to a machine out of a region that is made of pieces of this size.
const HOTPLUG_MIB: u32 = 128;
const MIB: u64 = 1024 * 1024;
/// What a machine's memory grows to at most on a host with more: with what it is booted with, within the
/// 2^40 addresses that every KVM can give a guest (AMD64 manual, volume 2, table of physical address sizes).
const MOST_OF_HOST_MIB: u32 = 512 * 1024;

// What containerd's CRI plug-in says of the whole pod; it sets them on the sandbox container.
const SANDBOX_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const SANDBOX_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const SANDBOX_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// The kernel's default `cpu.max` period in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// Number of vCPUs, 1 to 32.
    pub vcpus: u8,
    /// Memory in MiB, 64 or more.
    pub memory_mib: u32,
}

impl VmSize {
    /// The size for a pod whose first container is `spec`. For a Kubernetes pod, whose first
    /// container only holds the namespaces, the pod's limits come from its annotations.
    #[must_use]
    pub fn for_spec(spec: &Spec, config: &Config) -> Self {
        Self {
            vcpus: cpu_limit(spec).map_or(config.vcpus, vcpus),
            memory_mib: memory_limit(spec).map_or(config.memory_mib, memory_mib),
        }
    }

    /// The size for a pod with these limits.
    #[must_use]
    pub fn for_limits(limits: ContainerLimits, config: &Config) -> Self {
        Self {
            vcpus: limits.cpu().map_or(config.vcpus, vcpus),
            memory_mib: positive(limits.memory).map_or(config.memory_mib, memory_mib),
        }
    }

    /// The most that a machine booted with `self` can have.
    #[must_use]
    pub fn most(self, config: &Config) -> Self {
        let most = config.max_memory_mib.unwrap_or_else(memory_of_host_mib);
        let more = most.saturating_sub(self.memory_mib);
        Self {
            vcpus: config.max_vcpus.unwrap_or_default().max(self.vcpus),
            memory_mib: self.memory_mib + more / HOTPLUG_MIB * HOTPLUG_MIB,
        }
    }

    /// Whether it is larger than `other` in any way.
    #[must_use]
    pub fn exceeds(self, other: Self) -> bool {
        self.vcpus > other.vcpus || self.memory_mib > other.memory_mib
    }

    /// What a machine booted with `self` needs for containers with these limits together.
    #[must_use]
    pub fn for_containers(self, limits: &[ContainerLimits]) -> Self {
        // A CPU is a thousand here, so that halves of two containers make a whole.
        let cpus: u64 = limits
            .iter()
            .filter_map(|limits| limits.cpu())
            .map(|(quota, period)| quota.saturating_mul(1000).div_ceil(period))
            .fold(0, u64::saturating_add);
        let memory = limits
            .iter()
            .filter_map(|limits| positive(limits.memory))
            .fold(0, u64::saturating_add);
        let memory_mib = if memory == 0 { 0 } else { memory_mib(memory) };
        Self {
            vcpus: self.vcpus.max(vcpus((cpus, 1000))),
            memory_mib: self.memory_mib.max(memory_mib),
        }
    }
}

/// The host's memory, as far as a machine can have it.
fn memory_of_host_mib() -> u32 {
    let host = rustix::system::sysinfo();
    let bytes = host.totalram.saturating_mul(u64::from(host.mem_unit));
    u32::try_from(bytes / MIB).map_or(MOST_OF_HOST_MIB, |mib| mib.min(MOST_OF_HOST_MIB))
}

/// The limits of a container by which its machine is sized. What is not set is `None` or, as in the
/// OCI specification, not positive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerLimits {
    /// CPU time in each period, in microseconds.
    quota: Option<i64>,
    /// The period in microseconds.
    period: Option<u64>,
    /// Bytes.
    memory: Option<i64>,
}

impl ContainerLimits {
    /// Limits as CRI says them: quota and period in microseconds, memory in bytes, 0 for none.
    #[must_use]
    pub fn of_pod(quota: i64, period: i64, memory: i64) -> Self {
        Self {
            quota: Some(quota),
            period: positive(Some(period)),
            memory: Some(memory),
        }
    }

    /// The limits in `resources`.
    #[must_use]
    pub fn of(resources: &LinuxResources) -> Self {
        // 0 is how clients write "not set".
        let cpu = resources.cpu().as_ref();
        let memory = resources.memory().as_ref();
        Self {
            quota: cpu.and_then(LinuxCpu::quota).filter(|quota| *quota != 0),
            period: cpu.and_then(LinuxCpu::period).filter(|period| *period != 0),
            memory: memory
                .and_then(LinuxMemory::limit)
                .filter(|limit| *limit != 0),
        }
    }

    /// The limits of a new container.
    #[must_use]
    pub fn of_spec(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        resources.map(Self::of).unwrap_or_default()
    }

    /// These limits after a change that names only some.
    #[must_use]
    pub fn changed(self, change: Self) -> Self {
        Self {
            quota: change.quota.or(self.quota),
            period: change.period.or(self.period),
            memory: change.memory.or(self.memory),
        }
    }

    fn cpu(self) -> Option<(u64, u64)> {
        let period = self.period.unwrap_or(DEFAULT_PERIOD_US);
        Some((positive(self.quota)?, period))
    }
}

fn positive(number: Option<i64>) -> Option<u64> {
    u64::try_from(number?).ok().filter(|number| *number > 0)
}

/// Quota and period in microseconds.
fn cpu_limit(spec: &Spec) -> Option<(u64, u64)> {
    let annotated = annotation(spec, SANDBOX_QUOTA).map(|quota| {
        let period = annotation(spec, SANDBOX_PERIOD).unwrap_or(DEFAULT_PERIOD_US);
        (quota, period)
    });
    annotated.or_else(|| ContainerLimits::of_spec(spec).cpu())
}

/// Bytes.
fn memory_limit(spec: &Spec) -> Option<u64> {
    annotation(spec, SANDBOX_MEMORY).or_else(|| positive(ContainerLimits::of_spec(spec).memory))
}

/// A positive number from an annotation; 0 is how CRI writes "no limit".
fn annotation(spec: &Spec, key: &str) -> Option<u64> {
    let annotations: &HashMap<String, String> = spec.annotations().as_ref()?;
    annotations
        .get(key)?
        .parse()
        .ok()
        .filter(|&value| value > 0)
}

fn vcpus((quota, period): (u64, u64)) -> u8 {
    let whole = quota.div_ceil(period).max(1);
    u8::try_from(whole).unwrap_or(MAX_VCPUS).min(MAX_VCPUS)
}

fn memory_mib(limit: u64) -> u32 {
    let limit_mib = limit.div_ceil(MIB);
    let wanted = limit_mib + limit_mib.div_ceil(64) + GUEST_OVERHEAD_MIB;
    u32::try_from(wanted.next_multiple_of(GRANULE_MIB))
        .unwrap_or(MAX_MEMORY_MIB)
        .clamp(MIN_MEMORY_MIB, MAX_MEMORY_MIB)
}

#[cfg(test)]
#[path = "sizing_test.rs"]
mod tests;
