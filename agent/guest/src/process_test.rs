use super::*;

fn process() -> Arc<Process> {
    Arc::new(Process::new("process p".to_owned(), None))
}

fn outcome(status: u32) -> Outcome {
    Outcome {
        exit: Exit::now(status),
        oom_killed: false,
    }
}

#[tokio::test]
async fn every_waiter_is_told_early_or_late() {
    let process = process();
    let early: Vec<_> = (0..100)
        .map(|_| tokio::spawn(Arc::clone(&process).wait()))
        .collect();
    tokio::task::yield_now().await;
    process.ended();
    process.settle(outcome(3));
    for waiter in early {
        assert_eq!(waiter.await.unwrap().unwrap().exit.status, 3);
    }
    assert_eq!(Arc::clone(&process).wait().await.unwrap().exit.status, 3);
}

#[tokio::test]
async fn a_waiter_does_not_keep_a_deleted_process() {
    let process = process();
    let waiter = tokio::spawn(Arc::clone(&process).wait());
    tokio::task::yield_now().await;
    drop(process);
    assert!(matches!(
        waiter.await.unwrap(),
        Err(AgentError::NotFound(_))
    ));
}

#[test]
fn a_process_starts_once() {
    let process = process();
    process.begin_start().unwrap();
    assert!(matches!(
        process.begin_start(),
        Err(AgentError::FailedPrecondition(_))
    ));
    process.started();
    assert_eq!(process.stage(), Stage::Running);
    process.ended();
    assert!(matches!(
        process.begin_start(),
        Err(AgentError::FailedPrecondition(_))
    ));
}

#[test]
fn a_process_that_ended_while_it_started_does_not_run() {
    let process = process();
    process.begin_start().unwrap();
    process.ended();
    process.started();
    assert_eq!(process.stage(), Stage::Ended);
}

#[test]
fn signals_tell_not_yet_from_no_more() {
    let reaper = Reaper::default();
    let process = process();
    assert!(matches!(
        process.signal(&reaper, 15),
        Err(AgentError::FailedPrecondition(_))
    ));
    process.launched(999_999, None, Movers::default());
    assert!(
        matches!(process.signal(&reaper, 15), Err(AgentError::NotFound(_))),
        "not watched"
    );
    process.ended();
    assert!(matches!(
        process.signal(&reaper, 15),
        Err(AgentError::NotFound(_))
    ));
}

#[tokio::test]
async fn a_size_set_before_the_terminal_exists_is_its_first() {
    let process = process();
    process.resize(100, 30).unwrap();
    let (master, slave) = terminal::open().unwrap();
    let master = Arc::new(Descriptor::new(master).unwrap());
    process.launched(2, Some(master), Movers::default());
    let size = rustix::termios::tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (100, 30));
    process.resize(80, 24).unwrap();
    assert_eq!(rustix::termios::tcgetwinsize(&slave).unwrap().ws_col, 80);
}
