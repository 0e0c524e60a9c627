//! The metrics of cgroup v1, from what v2 counts: times are in nanoseconds, swap includes memory,
//! and a group's own numbers are the same as those of its whole tree.

use caisson_protocol::agent::{self, StatsResponse};
use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

/// What v1 shows where there is no limit of memory: the highest number of bytes that are whole
/// pages.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

pub(super) fn metrics(stats: &StatsResponse) -> Metrics {
    let mut metrics = Metrics::new();
    if let Some(pids) = stats.pids.as_ref() {
        let mut stat = PidsStat::new();
        stat.current = pids.current;
        // containerd shows no limit as 0.
        stat.limit = Some(pids.limit)
            .filter(|limit| *limit != u64::MAX)
            .unwrap_or_default();
        metrics.pids = Some(stat).into();
    }
    if let Some(cpu) = stats.cpu.as_ref() {
        metrics.cpu = Some(cpu_stat(cpu)).into();
    }
    if let Some(memory) = stats.memory.as_ref() {
        metrics.memory = Some(memory_stat(memory)).into();
        let mut oom = MemoryOomControl::new();
        oom.oom_kill = memory.events.get("oom_kill").copied().unwrap_or_default();
        metrics.memory_oom_control = Some(oom).into();
    }
    metrics.blkio = Some(blkio_stat(&stats.io)).into();
    metrics.hugetlb = stats
        .hugetlb
        .iter()
        .map(|size| {
            let mut stat = HugetlbStat::new();
            stat.pagesize.clone_from(&size.page_size);
            stat.usage = size.current;
            stat.max = limit(size.limit);
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

fn limit(bytes: u64) -> u64 {
    bytes.min(UNLIMITED)
}

fn cpu_stat(cpu: &agent::CpuStat) -> CPUStat {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let mut usage = CPUUsage::new();
    usage.total = nanoseconds(cpu.usage_usec);
    usage.user = nanoseconds(cpu.user_usec);
    usage.kernel = nanoseconds(cpu.system_usec);
    let mut throttling = Throttle::new();
    throttling.periods = cpu.nr_periods;
    throttling.throttled_periods = cpu.nr_throttled;
    throttling.throttled_time = nanoseconds(cpu.throttled_usec);
    let mut stat = CPUStat::new();
    stat.usage = Some(usage).into();
    stat.throttling = Some(throttling).into();
    stat
}

fn memory_stat(memory: &agent::MemoryStat) -> MemoryStat {
    let value = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    let both = |swap: u64, memory: u64| limit(swap.saturating_add(memory));
    let mut stat = MemoryStat::new();
    stat.cache = value("file");
    stat.rss = value("anon");
    stat.rss_huge = value("anon_thp");
    stat.mapped_file = value("file_mapped");
    stat.dirty = value("file_dirty");
    stat.writeback = value("file_writeback");
    stat.pg_fault = value("pgfault");
    stat.pg_maj_fault = value("pgmajfault");
    stat.inactive_anon = value("inactive_anon");
    stat.active_anon = value("active_anon");
    stat.inactive_file = value("inactive_file");
    stat.active_file = value("active_file");
    stat.unevictable = value("unevictable");
    stat.hierarchical_memory_limit = limit(memory.usage_limit);
    stat.hierarchical_swap_limit = both(memory.swap_limit, memory.usage_limit);
    stat.total_cache = stat.cache;
    stat.total_rss = stat.rss;
    stat.total_rss_huge = stat.rss_huge;
    stat.total_mapped_file = stat.mapped_file;
    stat.total_dirty = stat.dirty;
    stat.total_writeback = stat.writeback;
    stat.total_pg_fault = stat.pg_fault;
    stat.total_pg_maj_fault = stat.pg_maj_fault;
    stat.total_inactive_anon = stat.inactive_anon;
    stat.total_active_anon = stat.active_anon;
    stat.total_inactive_file = stat.inactive_file;
    stat.total_active_file = stat.active_file;
    stat.total_unevictable = stat.unevictable;

    let mut usage = MemoryEntry::new();
    usage.usage = memory.usage;
    usage.limit = limit(memory.usage_limit);
    usage.max = memory.peak;
    usage.failcnt = memory.events.get("max").copied().unwrap_or_default();
    stat.usage = Some(usage).into();
    let mut swap = MemoryEntry::new();
    swap.usage = memory.swap_usage.saturating_add(memory.usage);
    swap.limit = both(memory.swap_limit, memory.usage_limit);
    stat.swap = Some(swap).into();
    // v2 has no limits of its own for these two.
    let mut kernel = MemoryEntry::new();
    kernel.usage = value("kernel");
    kernel.limit = UNLIMITED;
    stat.kernel = Some(kernel).into();
    let mut tcp = MemoryEntry::new();
    tcp.usage = value("sock");
    tcp.limit = UNLIMITED;
    stat.kernel_tcp = Some(tcp).into();
    stat
}

fn blkio_stat(devices: &[agent::IoStat]) -> BlkIOStat {
    let entries = |values: &dyn Fn(&agent::IoStat) -> (u64, u64)| {
        devices
            .iter()
            .flat_map(|device| {
                let (read, written) = values(device);
                let total = read.saturating_add(written);
                [("Read", read), ("Write", written), ("Total", total)].map(|(op, value)| {
                    let mut entry = BlkIOEntry::new();
                    op.clone_into(&mut entry.op);
                    entry.major = device.major;
                    entry.minor = device.minor;
                    entry.value = value;
                    entry
                })
            })
            .collect()
    };
    let mut stat = BlkIOStat::new();
    stat.io_service_bytes_recursive = entries(&|device| (device.rbytes, device.wbytes));
    stat.io_serviced_recursive = entries(&|device| (device.rios, device.wios));
    stat
}

fn rdma_entry(device: &agent::RdmaStat) -> RdmaEntry {
    let mut entry = RdmaEntry::new();
    entry.device.clone_from(&device.device);
    entry.hca_handles = device.hca_handles;
    entry.hca_objects = device.hca_objects;
    entry
}
