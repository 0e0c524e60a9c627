//! The metrics of cgroup v2.

use caisson_protocol::agent::{self, StatsResponse};
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};

pub(super) fn metrics(stats: &StatsResponse) -> Metrics {
    let mut metrics = Metrics::new();
    if let Some(pids) = stats.pids.as_ref() {
        let mut stat = PidsStat::new();
        stat.current = pids.current;
        stat.limit = pids.limit;
        metrics.pids = Some(stat).into();
    }
    if let Some(cpu) = stats.cpu.as_ref() {
        metrics.cpu = Some(cpu_stat(cpu)).into();
    }
    if let Some(memory) = stats.memory.as_ref() {
        metrics.memory = Some(memory_stat(memory)).into();
        metrics.memory_events = Some(memory_events(memory)).into();
    }
    metrics.io = Some(io_stat(stats)).into();
    metrics.hugetlb = stats
        .hugetlb
        .iter()
        .map(|size| {
            let mut stat = HugeTlbStat::new();
            stat.pagesize.clone_from(&size.page_size);
            stat.current = size.current;
            stat.max = size.limit;
            stat.failcnt = size.failures;
            stat
        })
        .collect();
    let mut rdma = RdmaStat::new();
    rdma.current = stats.rdma_current.iter().map(rdma_entry).collect();
    rdma.limit = stats.rdma_limit.iter().map(rdma_entry).collect();
    metrics.rdma = Some(rdma).into();
    metrics
}

fn cpu_stat(cpu: &agent::CpuStat) -> CPUStat {
    let mut stat = CPUStat::new();
    stat.usage_usec = cpu.usage_usec;
    stat.user_usec = cpu.user_usec;
    stat.system_usec = cpu.system_usec;
    stat.nr_periods = cpu.nr_periods;
    stat.nr_throttled = cpu.nr_throttled;
    stat.throttled_usec = cpu.throttled_usec;
    stat.nr_bursts = cpu.nr_bursts;
    stat.burst_usec = cpu.burst_usec;
    stat.psi = cpu.pressure.as_ref().map(pressure).into();
    stat
}

fn memory_events(memory: &agent::MemoryStat) -> MemoryEvents {
    let event = |name: &str| memory.events.get(name).copied().unwrap_or_default();
    let mut events = MemoryEvents::new();
    events.low = event("low");
    events.high = event("high");
    events.max = event("max");
    events.oom = event("oom");
    events.oom_kill = event("oom_kill");
    events.oom_group_kill = event("oom_group_kill");
    events
}

fn io_stat(stats: &StatsResponse) -> IOStat {
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
    io.psi = stats.io_pressure.as_ref().map(pressure).into();
    io
}

fn rdma_entry(device: &agent::RdmaStat) -> RdmaEntry {
    let mut entry = RdmaEntry::new();
    entry.device.clone_from(&device.device);
    entry.hca_handles = device.hca_handles;
    entry.hca_objects = device.hca_objects;
    entry
}

fn pressure(pressure: &agent::Pressure) -> PSIStats {
    let line = |line: &agent::PressureLine| {
        let mut data = PSIData::new();
        data.avg10 = line.avg10;
        data.avg60 = line.avg60;
        data.avg300 = line.avg300;
        data.total = line.total;
        data
    };
    let mut stats = PSIStats::new();
    stats.some = pressure.some.as_ref().map(line).into();
    stats.full = pressure.full.as_ref().map(line).into();
    stats
}

fn memory_stat(memory: &agent::MemoryStat) -> MemoryStat {
    let value = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    let mut stat = MemoryStat::new();
    stat.usage = memory.usage;
    stat.usage_limit = memory.usage_limit;
    stat.swap_usage = memory.swap_usage;
    stat.swap_limit = memory.swap_limit;
    stat.max_usage = memory.peak;
    stat.swap_max_usage = memory.swap_peak;
    stat.psi = memory.pressure.as_ref().map(pressure).into();
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
