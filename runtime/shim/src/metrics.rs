//! Resource usage in the form that containerd's clients know: cgroup v2 metrics.

use caisson_protocol::agent::StatsResponse;
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};

/// The metrics message for what the agent measured. Guest data: numbers, passed on as they are.
pub(crate) fn metrics(stats: &StatsResponse) -> Metrics {
    let mut metrics = Metrics::new();
    if let Some(pids) = stats.pids.as_ref() {
        let mut stat = PidsStat::new();
        stat.current = pids.current;
        stat.limit = pids.limit;
        metrics.pids = Some(stat).into();
    }
    if let Some(cpu) = stats.cpu.as_ref() {
        let mut stat = CPUStat::new();
        stat.usage_usec = cpu.usage_usec;
        stat.user_usec = cpu.user_usec;
        stat.system_usec = cpu.system_usec;
        stat.nr_periods = cpu.nr_periods;
        stat.nr_throttled = cpu.nr_throttled;
        stat.throttled_usec = cpu.throttled_usec;
        metrics.cpu = Some(stat).into();
    }
    if let Some(memory) = stats.memory.as_ref() {
        metrics.memory = Some(memory_stat(memory)).into();
        let event = |name: &str| memory.events.get(name).copied().unwrap_or_default();
        let mut events = MemoryEvents::new();
        events.low = event("low");
        events.high = event("high");
        events.max = event("max");
        events.oom = event("oom");
        events.oom_kill = event("oom_kill");
        events.oom_group_kill = event("oom_group_kill");
        metrics.memory_events = Some(events).into();
    }
    let mut io = IOStat::new();
    io.usage = stats
        .io
        .iter()
        .map(|line| {
            let mut entry = IOEntry::new();
            entry.major = line.major;
            entry.minor = line.minor;
            entry.rbytes = line.rbytes;
            entry.wbytes = line.wbytes;
            entry.rios = line.rios;
            entry.wios = line.wios;
            entry
        })
        .collect();
    metrics.io = Some(io).into();
    metrics
}

fn memory_stat(memory: &caisson_protocol::agent::MemoryStat) -> MemoryStat {
    let value = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    let mut stat = MemoryStat::new();
    stat.usage = memory.usage;
    stat.usage_limit = memory.usage_limit;
    stat.swap_usage = memory.swap_usage;
    stat.swap_limit = memory.swap_limit;
    stat.anon = value("anon");
    stat.file = value("file");
    stat.kernel_stack = value("kernel_stack");
    stat.slab = value("slab");
    stat.sock = value("sock");
    stat.shmem = value("shmem");
    stat.file_mapped = value("file_mapped");
    stat.file_dirty = value("file_dirty");
    stat.file_writeback = value("file_writeback");
    stat.anon_thp = value("anon_thp");
    stat.inactive_anon = value("inactive_anon");
    stat.active_anon = value("active_anon");
    stat.inactive_file = value("inactive_file");
    stat.active_file = value("active_file");
    stat.unevictable = value("unevictable");
    stat.slab_reclaimable = value("slab_reclaimable");
    stat.slab_unreclaimable = value("slab_unreclaimable");
    stat.pgfault = value("pgfault");
    stat.pgmajfault = value("pgmajfault");
    // Since Linux 5.9 these two are counted apart for anonymous memory and files.
    stat.workingset_refault =
        value("workingset_refault_anon").wrapping_add(value("workingset_refault_file"));
    stat.workingset_activate =
        value("workingset_activate_anon").wrapping_add(value("workingset_activate_file"));
    stat.workingset_nodereclaim = value("workingset_nodereclaim");
    stat.pgrefill = value("pgrefill");
    stat.pgscan = value("pgscan");
    stat.pgsteal = value("pgsteal");
    stat.pgactivate = value("pgactivate");
    stat.pgdeactivate = value("pgdeactivate");
    stat.pglazyfree = value("pglazyfree");
    stat.pglazyfreed = value("pglazyfreed");
    stat.thp_fault_alloc = value("thp_fault_alloc");
    stat.thp_collapse_alloc = value("thp_collapse_alloc");
    stat
}

#[cfg(test)]
#[path = "metrics_test.rs"]
mod tests;
