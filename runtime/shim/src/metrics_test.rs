use std::collections::HashMap;

use caisson_protocol::agent::{
    CpuStat, HugetlbStat, IoStat, MemoryStat, PidsStat, Pressure, PressureLine, RdmaStat,
    StatsResponse,
};
use protobuf::Message;

use super::{Hierarchy, v1, v2};

fn measured() -> StatsResponse {
    let mut stats = StatsResponse::new();
    let mut cpu = CpuStat::new();
    cpu.usage_usec = 7;
    cpu.nr_throttled = 5;
    cpu.throttled_usec = 9;
    cpu.pressure = Some(Pressure {
        some: Some(PressureLine {
            total: 13,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    })
    .into();
    stats.cpu = Some(cpu).into();
    let mut memory = MemoryStat::new();
    memory.usage = 4096;
    memory.usage_limit = u64::MAX;
    memory.peak = 8192;
    memory.swap_limit = u64::MAX;
    memory.swap_usage = 4;
    memory.stat = HashMap::from([
        ("anon".into(), 11),
        ("workingset_refault_anon".into(), u64::MAX),
        ("workingset_refault_file".into(), 3),
    ]);
    memory.events = HashMap::from([("oom_kill".into(), 2)]);
    stats.memory = Some(memory).into();
    let mut pids = PidsStat::new();
    pids.current = 3;
    pids.limit = u64::MAX;
    stats.pids = Some(pids).into();
    let mut io = IoStat::new();
    io.major = 254;
    io.rbytes = 512;
    stats.io.push(io);
    let mut huge = HugetlbStat::new();
    huge.page_size = "2MB".into();
    huge.limit = u64::MAX;
    huge.failures = 6;
    stats.hugetlb.push(huge);
    let mut rdma = RdmaStat::new();
    rdma.device = "mlx4_0".into();
    rdma.hca_handles = 2;
    stats.rdma_current.push(rdma);
    stats
}

#[test]
fn what_the_agent_measured_arrives_under_containerds_names() {
    let metrics = v2::metrics(&measured());

    assert_eq!(metrics.cpu.usage_usec, 7);
    assert_eq!(metrics.memory.usage, 4096);
    assert_eq!(metrics.memory.usage_limit, u64::MAX);
    assert_eq!(metrics.memory.anon, 11);
    assert_eq!(
        metrics.memory.workingset_refault, 2,
        "a hostile guest causes no overflow"
    );
    assert_eq!(metrics.memory_events.oom_kill, 2);
    assert_eq!(metrics.pids.current, 3);
    assert_eq!(
        (metrics.io.usage[0].major, metrics.io.usage[0].rbytes),
        (254, 512)
    );
    assert_eq!(metrics.memory.max_usage, 8192);
    assert_eq!(metrics.pids.limit, u64::MAX);
    assert_eq!(metrics.cpu.psi.some.total, 13);
    assert!(metrics.memory.psi.is_none(), "not measured is not zero");
    assert_eq!(metrics.hugetlb[0].pagesize, "2MB");
    assert_eq!(metrics.hugetlb[0].failcnt, 6);
    assert_eq!(metrics.rdma.current[0].hca_handles, 2);
}

#[test]
fn a_host_of_the_old_kind_is_told_in_the_old_units() {
    let metrics = v1::metrics(&measured());
    assert_eq!(metrics.cpu.usage.total, 7000);
    assert_eq!(metrics.cpu.throttling.throttled_periods, 5);
    assert_eq!(metrics.cpu.throttling.throttled_time, 9000);
    assert_eq!(metrics.pids.limit, 0, "none");
    let memory = &metrics.memory;
    assert_eq!((memory.rss, memory.total_rss), (11, 11));
    assert_eq!((memory.usage.usage, memory.usage.max), (4096, 8192));
    assert_eq!(memory.usage.limit, 9_223_372_036_854_771_712);
    assert_eq!(memory.swap.limit, memory.usage.limit);
    assert_eq!(memory.swap.usage, 4100, "with memory");
    assert_eq!(metrics.memory_oom_control.oom_kill, 2);
    let bytes = &metrics.blkio.io_service_bytes_recursive;
    assert_eq!(
        bytes
            .iter()
            .map(|e| (e.op.as_str(), e.value))
            .collect::<Vec<_>>(),
        [("Read", 512), ("Write", 0), ("Total", 512)]
    );
    assert_eq!(metrics.hugetlb[0].max, memory.usage.limit);
}

#[test]
fn the_name_of_the_metrics_says_of_which_kind_they_are() {
    let stats = measured();
    let any = Hierarchy::V2.metrics(&stats);
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    let read = containerd_shim_protos::cgroups_v2::metrics::Metrics::parse_from_bytes(&any.value);
    assert_eq!(read.unwrap().pids.current, 3);
    let any = Hierarchy::V1.metrics(&stats);
    assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
    let read = containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&any.value);
    assert_eq!(read.unwrap().pids.current, 3);
}

#[test]
fn what_is_mounted_decides() {
    assert_eq!(Hierarchy::at("/proc"), Hierarchy::V1);
    assert_eq!(Hierarchy::at("/no/such/place"), Hierarchy::V2);
}
