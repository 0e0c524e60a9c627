//! How large a machine a pod needs.
//!
//! What the specification says is what the application gets: memory is the pod's limit and what
//! the guest itself needs beside it; vCPUs are the CPU limit rounded up. The exact limits are
//! enforced by the guest's cgroups. Without limits the configuration's defaults hold.

use std::collections::HashMap;

use oci_spec::runtime::Spec;

use crate::Config;
use crate::config::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};

/// MiB that the guest's kernel, its page structures, the agent and one container's own
/// bookkeeping may take beside the pod's limit. The page structures are 1/64 of the memory and
/// come on top.
const GUEST_OVERHEAD_MIB: u64 = 96;
/// Guest memory is made of pages of 2 MiB.
const GRANULE_MIB: u64 = 2;
const MIB: u64 = 1024 * 1024;

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
}

/// Quota and period in microseconds.
fn cpu_limit(spec: &Spec) -> Option<(u64, u64)> {
    let annotated = annotation(spec, SANDBOX_QUOTA).map(|quota| {
        let period = annotation(spec, SANDBOX_PERIOD).unwrap_or(DEFAULT_PERIOD_US);
        (quota, period)
    });
    annotated.or_else(|| {
        let cpu = spec
            .linux()
            .as_ref()?
            .resources()
            .as_ref()?
            .cpu()
            .as_ref()?;
        let quota = u64::try_from(cpu.quota()?)
            .ok()
            .filter(|&quota| quota > 0)?;
        let period = cpu.period().filter(|&period| period > 0);
        Some((quota, period.unwrap_or(DEFAULT_PERIOD_US)))
    })
}

/// Bytes.
fn memory_limit(spec: &Spec) -> Option<u64> {
    annotation(spec, SANDBOX_MEMORY).or_else(|| {
        let memory = spec
            .linux()
            .as_ref()?
            .resources()
            .as_ref()?
            .memory()
            .as_ref()?;
        u64::try_from(memory.limit()?)
            .ok()
            .filter(|&limit| limit > 0)
    })
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
