use super::*;
use std::os::unix::net::{UnixListener, UnixStream};

use std::io::{Read, Write};

fn id(number: u64) -> StreamId {
    StreamId::new(number).unwrap()
}

fn pair() -> (Descriptor, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Descriptor::new(near.into()).unwrap(), far)
}

#[tokio::test]
async fn a_stream_waits_for_its_process() {
    let streams = Streams::default();
    let (near, mut far) = pair();
    assert_eq!(streams.arrive(id(5), near), Some(1));
    let stream = streams.claim(5).unwrap().unwrap().stream().await.unwrap();
    far.write_all(b"hello").unwrap();
    let mut buffer = [0_u8; 8];
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 5);
    assert!(streams.lock().parked.is_empty());
}

#[tokio::test]
async fn a_process_waits_for_its_stream() {
    let streams = Streams::default();
    let claim = streams.claim(9).unwrap().unwrap();
    let waiting = tokio::spawn(claim.stream());
    let (near, mut far) = pair();
    assert_eq!(streams.arrive(id(9), near), None);
    waiting
        .await
        .unwrap()
        .unwrap()
        .write_all(b"x")
        .await
        .unwrap();
    let mut byte = [0];
    far.read_exact(&mut byte).unwrap();
    assert!(streams.lock().claims.is_empty());
}

#[tokio::test]
async fn number_zero_is_no_stream() {
    assert!(Streams::default().claim(0).unwrap().is_none());
}

#[tokio::test]
async fn one_stream_cannot_have_two_owners() {
    let streams = Streams::default();
    let first = streams.claim(3).unwrap().unwrap();
    assert!(matches!(
        streams.claim(3),
        Err(AgentError::InvalidArgument(_))
    ));
    drop(first);
    assert!(
        streams.claim(3).is_ok(),
        "a claim that was given up is free again"
    );
}

#[tokio::test]
async fn a_claim_given_up_does_not_take_a_later_one_along() {
    let streams = Streams::default();
    let first = streams.claim(3).unwrap().unwrap();
    let (near, _far) = pair();
    streams.arrive(id(3), near);
    let second = streams.claim(3).unwrap().unwrap();
    drop(first);
    let (near, _far) = pair();
    assert_eq!(
        streams.arrive(id(3), near),
        None,
        "the second claim still waits"
    );
    assert!(second.stream().await.is_some());
}

#[tokio::test]
async fn a_stream_nobody_wants_is_closed() {
    let streams = Streams::default();
    let (near, mut far) = pair();
    let arrival = streams.arrive(id(1), near).unwrap();
    streams.evict(id(1), arrival + 1);
    assert!(
        streams.lock().parked.contains_key(&id(1)),
        "another arrival's time is up, not this"
    );
    streams.evict(id(1), arrival);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn a_stream_that_comes_after_its_process_is_gone_is_closed() {
    let streams = Streams::default();
    drop(streams.claim(8).unwrap());
    let (near, mut far) = pair();
    assert_eq!(streams.arrive(id(8), near), None);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    for number in 1000..1000 + 2 * MAX_PARKED as u64 {
        drop(streams.claim(number).unwrap());
    }
    assert_eq!(
        streams.lock().abandoned.len(),
        MAX_PARKED,
        "they are not remembered for ever"
    );
}

#[tokio::test]
async fn only_so_many_streams_may_wait() {
    let streams = Streams::default();
    let mut ends = Vec::new();
    for number in 1..=MAX_PARKED as u64 {
        let (near, far) = pair();
        assert!(streams.arrive(id(number), near).is_some());
        ends.push(far);
    }
    let (near, mut far) = pair();
    assert_eq!(streams.arrive(id(u64::MAX), near), None);
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "it is closed");
    let (near, mut far) = pair();
    streams.lock().parked.remove(&id(2));
    assert_eq!(
        streams.arrive(id(1), near),
        None,
        "number 1 is there already"
    );
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn data_right_behind_the_header_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("streams");
    let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
    let streams = Streams::default();
    tokio::spawn(streams.clone().serve(listener));
    let mut host = UnixStream::connect(&path).unwrap();
    let mut message = id(0xabc).to_header();
    message.extend_from_slice(b"data");
    host.write_all(&message).unwrap();
    let stream = streams
        .claim(0xabc)
        .unwrap()
        .unwrap()
        .stream()
        .await
        .unwrap();
    let mut buffer = [0_u8; 64];
    let count = stream.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..count], b"data");
}

#[tokio::test]
async fn a_connection_without_a_number_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("streams");
    let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
    tokio::spawn(Streams::default().serve(listener));
    let mut host = UnixStream::connect(&path).unwrap();
    host.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let host = Descriptor::new(host.into()).unwrap();
    // The rest of the request was never read, so the close may also show as a reset.
    let end = timeout(Duration::from_secs(5), host.read(&mut [0; 8]))
        .await
        .unwrap();
    assert!(end.map_or_else(
        |e| e.kind() == io::ErrorKind::ConnectionReset,
        |count| count == 0
    ));
}
