use super::*;

fn group(path: &Path) -> Cgroup {
    Cgroup {
        path: path.to_path_buf(),
    }
}

#[test]
fn processes_of_groups_below_are_listed_too() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    fs::write(root.path().join("cgroup.procs"), "12\n0\n15\n").unwrap();
    fs::write(root.path().join("a/cgroup.procs"), "").unwrap();
    fs::write(root.path().join("a/b/cgroup.procs"), "99\n").unwrap();
    let mut pids = group(root.path()).processes().unwrap();
    pids.sort_unstable();
    assert_eq!(pids, [12, 15, 99]);
}

#[test]
fn a_group_that_is_gone_is_an_error() {
    let gone = group(Path::new("/nonexistent"));
    assert!(gone.processes().is_err());
    assert!(gone.kill().is_err(), "the kill file must not be made up");
    assert!(!gone.oom_killed());
}

#[test]
fn removal_goes_depth_first_and_forgives_what_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let top = root.path().join("top");
    fs::create_dir_all(top.join("a/b/c")).unwrap();
    fs::create_dir_all(top.join("d")).unwrap();
    group(&top).remove().unwrap();
    assert!(!top.exists());
    group(&top).remove().unwrap();
}

#[test]
fn an_out_of_memory_kill_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let events = root.path().join("memory.events");
    fs::write(&events, "low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n").unwrap();
    assert!(!group(root.path()).oom_killed());
    fs::write(
        &events,
        "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n",
    )
    .unwrap();
    assert!(group(root.path()).oom_killed());
}

#[test]
fn containers_leave_processes_to_the_agent() {
    let kernel = tempfile::tempdir().unwrap();
    let group = tempfile::tempdir().unwrap();
    let limit = group.path().join("pids.max");
    hold_back_processes(group.path(), kernel.path());
    assert!(!limit.exists(), "without the controller nothing is made up");
    fs::write(&limit, "max\n").unwrap();
    hold_back_processes(group.path(), kernel.path());
    assert_eq!(fs::read_to_string(&limit).unwrap(), "max\n");
    fs::write(kernel.path().join("threads-max"), "1848\n").unwrap();
    fs::write(kernel.path().join("pid_max"), "32768\n").unwrap();
    hold_back_processes(group.path(), kernel.path());
    assert_eq!(fs::read_to_string(&limit).unwrap(), "1720");
}
