use std::time::{Duration, UNIX_EPOCH};

use super::{Exit, Process, ProcessKey, State};
use crate::error::TaskError;
use crate::stdio::StdioPaths;

fn exec() -> Process {
    let spec =
        serde_json::from_str(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["true"]}"#).unwrap();
    Process::exec(ProcessKey::new("c1", "e1"), StdioPaths::default(), 7, spec)
}

fn exit(status: u32) -> Exit {
    Exit {
        status,
        at: UNIX_EPOCH,
    }
}

/// From each state: what start, exit and delete lead to.
#[test]
fn the_states_follow_one_another() {
    let stopped = State::Stopped(exit(1));
    let deleted = State::Deleted(exit(1));
    let table = [
        // from, started, exited, deleted
        (
            State::Added,
            Some(State::Running),
            Some(State::Stopped(exit(2))),
            true,
        ),
        (
            State::Created,
            Some(State::Running),
            Some(State::Stopped(exit(2))),
            false,
        ),
        (State::Running, None, Some(State::Stopped(exit(2))), false),
        (stopped, None, None, true),
        (deleted, None, None, false),
    ];
    for (from, started, exited, deletable) in table {
        assert_eq!(from.started(), started, "start of {from:?}");
        assert_eq!(from.exited(exit(2)), exited, "exit of {from:?}");
        assert_eq!(from.deleted().is_some(), deletable, "delete of {from:?}");
    }
    assert_eq!(stopped.deleted(), Some(deleted), "the exit is kept");
}

#[tokio::test]
async fn who_waits_for_an_exec_that_is_deleted_unstarted_gets_an_answer() {
    let process = exec();
    let (waited, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(10), process.wait()),
        async {
            process.set_deleted().unwrap();
        }
    );
    assert_eq!(waited.unwrap().status, 0);
}

#[test]
fn only_the_first_exit_counts() {
    let process = exec();
    process.set_running().unwrap();
    assert!(process.set_exited(exit(1)));
    assert!(!process.set_exited(exit(2)));
    assert_eq!(process.state(), State::Stopped(exit(1)));
}

#[test]
fn a_wrong_step_is_named_and_changes_nothing() {
    let process = exec();
    process.set_running().unwrap();
    let error = process.set_running().unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"cannot start exec "e1" of container "c1" while it is running"#
    );
    assert_eq!(error.code(), ttrpc::Code::FAILED_PRECONDITION);
    let error = process.set_deleted().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot delete a running process")
    );
    assert_eq!(error.code(), ttrpc::Code::FAILED_PRECONDITION);
    assert_eq!(process.state(), State::Running);
}

#[test]
fn the_second_delete_finds_nothing() {
    let process = exec();
    process.set_running().unwrap();
    process.set_exited(exit(3));
    assert_eq!(process.set_deleted().unwrap(), exit(3));
    assert_eq!(
        process.set_deleted(),
        Err(TaskError::Unknown(ProcessKey::new("c1", "e1")))
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_output_is_drained() {
    let process = exec();
    process.set_running().unwrap();
    process.set_exited(exit(4));
    assert_eq!(process.ended().await, exit(4));
    let early = tokio::time::timeout(Duration::from_secs(1), process.wait()).await;
    assert!(early.is_err(), "the output is not drained yet");
    process.set_drained();
    let (a, b) = tokio::join!(process.wait(), process.wait());
    assert_eq!((a, b), (exit(4), exit(4)));
}

#[test]
fn a_size_given_early_is_kept_once() {
    let process = exec();
    process.set_size(80, 24);
    process.set_size(132, 43);
    assert_eq!(process.take_size(), Some((132, 43)));
    assert_eq!(process.take_size(), None);
}
