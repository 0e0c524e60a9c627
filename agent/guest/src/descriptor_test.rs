use super::*;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn socket_pair() -> (OwnedFd, OwnedFd) {
    let (a, b) = UnixStream::pair().unwrap();
    (a.into(), b.into())
}

#[tokio::test]
async fn splice_moves_every_byte_through_a_slow_socket() {
    const TOTAL: usize = 3 << 20;
    let (pipe_out, pipe_in) = pipe();
    let (near, far) = socket_pair();
    let writer = tokio::spawn(async move {
        let pipe_in = Descriptor::new(pipe_in).unwrap();
        for chunk in 0..TOTAL / 4096 {
            pipe_in.write_all(&[chunk as u8; 4096]).await.unwrap();
        }
    });
    let mover = tokio::spawn(async move {
        let pipe_out = Descriptor::new(pipe_out).unwrap();
        let near = Descriptor::new(near).unwrap();
        while pipe_out.splice(&near, 1 << 16).await.unwrap() > 0 {}
        near.shutdown_write();
    });
    let far = Descriptor::new(far).unwrap();
    let mut seen = 0_usize;
    // An odd size, so that reads do not fall together with the writes.
    let mut buffer = [0_u8; 777];
    loop {
        let count = far.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        for byte in &buffer[..count] {
            assert_eq!(*byte, (seen / 4096) as u8, "at {seen}");
            seen += 1;
        }
        if seen.is_multiple_of(5) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(seen, TOTAL);
    writer.await.unwrap();
    mover.await.unwrap();
}

#[tokio::test]
async fn a_pipe_is_broken_when_its_last_reader_closes() {
    let (reader, writer) = pipe();
    let writer = Descriptor::new(writer).unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(50), writer.broken())
            .await
            .is_err(),
        "a pipe with a reader is not broken"
    );
    drop(reader);
    tokio::time::timeout(Duration::from_secs(5), writer.broken())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_half_close_is_the_end_for_the_reader_and_leaves_the_other_direction() {
    let (near, far) = socket_pair();
    let (near, far) = (
        Descriptor::new(near).unwrap(),
        Descriptor::new(far).unwrap(),
    );
    near.write_all(b"last").await.unwrap();
    near.shutdown_write();
    let mut buffer = [0_u8; 16];
    assert_eq!(far.read(&mut buffer).await.unwrap(), 4);
    assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
    far.write_all(b"back").await.unwrap();
    assert_eq!(near.read(&mut buffer).await.unwrap(), 4);
}
