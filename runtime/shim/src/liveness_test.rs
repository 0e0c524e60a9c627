use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Liveness, Mark, kill};

/// A process that holds the lock like a shim does; its own pid is in the file.
fn holder(bundle: &Path) -> Child {
    let mut child = Command::new("flock")
        .arg(bundle.join("shim.pid"))
        .args(["sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

#[test]
fn a_bundle_without_a_shim_is_told_from_one_whose_shim_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Liveness::of(dir.path()), Liveness::NoShim);
    let mark = Mark::set(dir.path()).unwrap();
    assert_eq!(Liveness::of(dir.path()), Liveness::Alive);
    assert!(Mark::set(dir.path()).is_err(), "one shim for a bundle");
    drop(mark);
    // A program that another test starts at this moment holds a copy until its exec.
    let mut now = Liveness::of(dir.path());
    for _ in 0..100 {
        if now == Liveness::Dead {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        now = Liveness::of(dir.path());
    }
    assert_eq!(now, Liveness::Dead);
    let text = std::fs::read_to_string(dir.path().join("shim.pid")).unwrap();
    assert_eq!(text, std::process::id().to_string());
}

#[test]
fn killing_needs_no_shim() {
    let dir = tempfile::tempdir().unwrap();
    kill(dir.path()).unwrap();
    // The number in the file is this very process: killing by number alone would end the test.
    std::fs::write(dir.path().join("shim.pid"), std::process::id().to_string()).unwrap();
    kill(dir.path()).unwrap();
}

#[test]
fn a_living_shim_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = holder(dir.path());
    std::fs::write(dir.path().join("shim.pid"), child.id().to_string()).unwrap();
    assert_eq!(Liveness::of(dir.path()), Liveness::Alive);
    kill(dir.path()).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    // flock's child inherited the lock; it ends with its input.
    drop(child.stdin.take());
}

#[test]
fn a_lock_without_a_number_kills_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = holder(dir.path());
    let error = kill(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not its process id"), "{error}");
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_mark_notices_that_its_bundle_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mark = Mark::set(dir.path()).unwrap();
    assert!(!mark.is_removed());
    dir.close().unwrap();
    assert!(mark.is_removed());
}
