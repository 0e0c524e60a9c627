use super::*;

fn complete() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let (proc, group) = (root.path().join("proc"), root.path().join("group"));
    fs::create_dir_all(proc.join("self/ns")).unwrap();
    fs::create_dir_all(proc.join("sys/kernel/seccomp")).unwrap();
    fs::create_dir_all(&group).unwrap();
    for (name, _) in NAMESPACES {
        fs::write(proc.join("self/ns").join(name), "").unwrap();
    }
    fs::write(
        group.join("cgroup.controllers"),
        "cpuset cpu io memory hugetlb pids\n",
    )
    .unwrap();
    fs::write(proc.join("sys/kernel/sched_cfs_bandwidth_slice_us"), "5000").unwrap();
    fs::write(proc.join("sys/kernel/seccomp/actions_avail"), "allow").unwrap();
    let kinds =
        "nodev\ttmpfs\n\text4\nnodev\toverlay\nnodev\tvirtiofs\nnodev\tmqueue\nnodev\tdevpts\n";
    fs::write(proc.join("filesystems"), kinds).unwrap();
    (root, proc, group)
}

#[test]
fn a_kernel_for_containers_lacks_nothing() {
    let (_root, proc, group) = complete();
    assert_eq!(missing_below(&proc, &group), Vec::<&str>::new());
}

#[test]
fn what_is_missing_is_named_by_its_option() {
    let (_root, proc, group) = complete();
    fs::remove_file(proc.join("self/ns/pid")).unwrap();
    fs::write(group.join("cgroup.controllers"), "cpuset cpu io pids\n").unwrap();
    fs::write(
        proc.join("filesystems"),
        "nodev\ttmpfs\nnodev\toverlayfoo\n",
    )
    .unwrap();
    assert_eq!(
        missing_below(&proc, &group),
        [
            "CONFIG_PID_NS",
            "CONFIG_OVERLAY_FS",
            "CONFIG_VIRTIO_FS",
            "CONFIG_POSIX_MQUEUE",
            "CONFIG_UNIX98_PTYS",
            "CONFIG_MEMCG",
        ]
    );
}
