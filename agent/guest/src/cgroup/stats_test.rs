use super::*;
use std::fs;

#[test]
fn counters_are_read_from_the_interface_files() {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in [
        (
            "cpu.stat",
            "usage_usec 700\nuser_usec 500\nsystem_usec 200\nnice_usec 0\nnr_periods 9\nnr_throttled 3\nthrottled_usec 42\n",
        ),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.swap.current", "0\n"),
        ("memory.swap.max", "1048576\n"),
        ("memory.stat", "anon 100\nfile 200\n"),
        ("memory.events", "oom_kill 2\n"),
        ("memory.peak", "8192\n"),
        (
            "memory.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        ),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.max", "max\n"),
        ("hugetlb.2MB.events", "max 3\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
        ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ("rdma.max", "mlx4_0 hca_handle=3 hca_object=max\n"),
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        (
            "io.stat",
            "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \nbroken\n",
        ),
    ] {
        fs::write(root.path().join(file), text).unwrap();
    }
    let stats = Cgroup {
        path: root.path().to_path_buf(),
    }
    .stats();
    assert_eq!(
        (
            stats.cpu.usage_usec,
            stats.cpu.user_usec,
            stats.cpu.system_usec
        ),
        (700, 500, 200)
    );
    assert_eq!(
        (
            stats.cpu.nr_periods,
            stats.cpu.nr_throttled,
            stats.cpu.throttled_usec
        ),
        (9, 3, 42)
    );
    assert_eq!(
        (stats.memory.usage, stats.memory.usage_limit),
        (4096, u64::MAX)
    );
    assert_eq!(
        (stats.memory.swap_usage, stats.memory.swap_limit),
        (0, 1 << 20)
    );
    assert_eq!(stats.memory.stat.get("file"), Some(&200));
    assert_eq!(stats.memory.events.get("oom_kill"), Some(&2));
    assert_eq!((stats.pids.current, stats.pids.limit), (5, u64::MAX));
    assert_eq!(stats.memory.peak, 8192);
    let pressure = &stats.memory.pressure;
    assert!((pressure.some.avg10 - 1.5).abs() < f64::EPSILON);
    assert_eq!((pressure.some.total, pressure.full.total), (99, 7));
    assert!(stats.cpu.pressure.is_none(), "this kernel does not say");
    assert_eq!(stats.hugetlb.len(), 1);
    let huge = &stats.hugetlb[0];
    assert_eq!(
        (
            huge.page_size.as_str(),
            huge.current,
            huge.limit,
            huge.failures
        ),
        ("2MB", 2 << 20, u64::MAX, 3)
    );
    assert_eq!(stats.rdma_current[0].hca_objects, 2000);
    assert_eq!(stats.rdma_limit[0].hca_objects, u32::MAX);
    assert_eq!(stats.io.len(), 2);
    let disk = &stats.io[0];
    assert_eq!((disk.major, disk.minor), (254, 0));
    assert_eq!(
        (disk.rbytes, disk.wbytes, disk.rios, disk.wios),
        (1, 2, 3, 4)
    );
    assert_eq!(
        (stats.io[1].major, stats.io[1].minor, stats.io[1].rbytes),
        (8, 16, 0)
    );
}

#[test]
fn a_kernel_without_controllers_gives_zeros() {
    let root = tempfile::tempdir().unwrap();
    let stats = Cgroup {
        path: root.path().to_path_buf(),
    }
    .stats();
    assert_eq!(stats.cpu.usage_usec, 0);
    assert_eq!(stats.memory.usage_limit, 0);
    assert!(stats.io.is_empty());
}

#[test]
fn a_key_is_matched_as_a_whole() {
    assert_eq!(flat_value("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
    assert_eq!(flat_value("oom_kill_disable 1\n", "oom_kill"), None);
    assert_eq!(flat_value("oom_kill x\n", "oom_kill"), None);
    assert_eq!(flat_value("", "oom_kill"), None);
}
