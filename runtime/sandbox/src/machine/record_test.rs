use std::process::{Child, Command};

use super::{POD, Recorded, add, kill_recorded, parse, start_time};

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

#[test]
fn recorded_processes_are_killed_and_the_pods_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (mut vmm, mut server, mut pod) = (sleeper(), sleeper(), sleeper());
    add(directory.path(), &[("vmm", vmm.id()), ("fs", server.id())]).unwrap();
    add(directory.path(), &[(POD, pod.id())]).unwrap();
    assert_eq!(kill_recorded(directory.path()).unwrap(), Some(pod.id()));
    for child in [&mut vmm, &mut server, &mut pod] {
        let status = child.try_wait().unwrap().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }
    // They are gone; a second time changes nothing.
    assert_eq!(kill_recorded(directory.path()).unwrap(), Some(pod.id()));
}

#[test]
fn another_process_with_the_same_number_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut other = sleeper();
    let start = start_time(other.id()).unwrap();
    let line = format!("pod {} {}\n", other.id(), start + 1);
    std::fs::write(directory.path().join("processes"), line).unwrap();
    assert_eq!(kill_recorded(directory.path()).unwrap(), Some(other.id()));
    assert_eq!(other.try_wait().unwrap(), None);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_record_that_is_missing_or_damaged_kills_nobody() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(kill_recorded(directory.path()).unwrap(), None);
    for bad in ["", "vmm", "vmm x 1", "vmm 0 1", "vmm -1 1", "vmm 1"] {
        assert_eq!(parse(bad), None, "{bad}");
    }
    assert_eq!(
        parse("vmm 12 34"),
        Some(Recorded {
            is_pod: false,
            pid: 12,
            start_time: 34
        })
    );
}
