use std::collections::HashMap;

use caisson_protocol::agent::{CpuStat, IoStat, MemoryStat, PidsStat, StatsResponse};

use super::metrics;

#[test]
fn what_the_agent_measured_arrives_under_containerds_names() {
    let mut stats = StatsResponse::new();
    let mut cpu = CpuStat::new();
    cpu.usage_usec = 7;
    stats.cpu = Some(cpu).into();
    let mut memory = MemoryStat::new();
    memory.usage = 4096;
    memory.usage_limit = u64::MAX;
    memory.stat = HashMap::from([
        ("anon".into(), 11),
        ("workingset_refault_anon".into(), u64::MAX),
        ("workingset_refault_file".into(), 3),
    ]);
    memory.events = HashMap::from([("oom_kill".into(), 2)]);
    stats.memory = Some(memory).into();
    let mut pids = PidsStat::new();
    pids.current = 3;
    stats.pids = Some(pids).into();
    let mut io = IoStat::new();
    io.major = 254;
    io.rbytes = 512;
    stats.io.push(io);

    let metrics = metrics(&stats);

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
}
