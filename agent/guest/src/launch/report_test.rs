use super::*;
use std::os::fd::AsFd;

#[tokio::test]
async fn a_report_carries_its_terminal() {
    let (ours, theirs) = socket_pair().unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    send(
        theirs.as_fd(),
        &Report::Launched { pid: 12 },
        Some(writer.as_fd()),
    );
    let (report, terminal) = receive(&ours).await.unwrap();
    assert_eq!(report, Report::Launched { pid: 12 });
    rustix::io::write(terminal.unwrap(), b"x").unwrap();
    assert_eq!(rustix::io::read(reader, &mut [0_u8; 4]).unwrap(), 1);
}

#[tokio::test]
async fn the_first_report_counts() {
    let (ours, theirs) = socket_pair().unwrap();
    let cause = AgentError::InvalidArgument("no such program".to_owned());
    send(theirs.as_fd(), &Report::Failed(cause.clone()), None);
    send(
        theirs.as_fd(),
        &Report::Failed(AgentError::Internal("consequence".to_owned())),
        None,
    );
    assert_eq!(receive(&ours).await.unwrap().0, Report::Failed(cause));
}

#[tokio::test]
async fn a_child_that_dies_silently_is_an_error() {
    let (ours, theirs) = socket_pair().unwrap();
    drop(theirs);
    assert!(matches!(receive(&ours).await, Err(AgentError::Internal(_))));
}

#[tokio::test]
async fn long_reasons_fit() {
    let (ours, theirs) = socket_pair().unwrap();
    // Control characters take six bytes each in JSON.
    let error = shorten(AgentError::Internal("\u{1}ä".repeat(100_000)));
    send(theirs.as_fd(), &Report::Failed(error.clone()), None);
    assert_eq!(receive(&ours).await.unwrap().0, Report::Failed(error));
}
