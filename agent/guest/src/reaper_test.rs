use super::*;
use std::process::Command;

// Waiting for any child must not steal the children of other tests of this process, so what needs
// real children lives in tests/reaper.rs.

#[tokio::test]
async fn a_watched_process_is_reported_once() {
    let reaper = Reaper::default();
    let launch = reaper.launch();
    let exit = launch.watch(100);
    drop(launch);
    reaper.ended(100, Exit::now(42));
    assert_eq!(exit.await.unwrap().status, 42);
    assert!(reaper.lock().watched.is_empty());
}

#[tokio::test]
async fn an_exit_before_the_watch_is_kept() {
    let reaper = Reaper::default();
    let launch = reaper.launch();
    reaper.ended(7, Exit::now(1));
    assert_eq!(launch.watch(7).await.unwrap().status, 1);
}

#[test]
fn orphans_are_forgotten_when_no_launch_is_under_way() {
    let reaper = Reaper::default();
    reaper.ended(5, Exit::now(0));
    assert!(reaper.lock().unclaimed.is_empty());
    let outer = reaper.launch();
    let inner = reaper.launch();
    reaper.ended(6, Exit::now(0));
    drop(inner);
    assert_eq!(
        reaper.lock().unclaimed.len(),
        1,
        "another launch may still want it"
    );
    drop(outer);
    assert!(reaper.lock().unclaimed.is_empty());
}

#[test]
fn a_process_that_is_not_watched_gets_no_signal() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let reaper = Reaper::default();
    assert!(!reaper.signal(pid, libc::SIGKILL).unwrap());
    assert!(child.try_wait().unwrap().is_none(), "it must still live");
    let launch = reaper.launch();
    let _exit = launch.watch(pid);
    assert!(reaper.signal(pid, libc::SIGKILL).unwrap());
    child.wait().unwrap();
}
