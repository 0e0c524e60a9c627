use std::os::unix::net::UnixListener;

use caisson_protocol::DialHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::serve;
use crate::socket::Listener;

/// A connection that goes to `port`, as the host makes it.
async fn dial(ipv6: bool, port: u16) -> UnixStream {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
    tokio::spawn(serve(listener));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let header = DialHeader { ipv6, port }.to_bytes();
    stream.write_all(&header).await.unwrap();
    stream
}

#[tokio::test]
async fn a_connection_is_passed_on_byte_for_byte_and_closed_half_by_half() {
    // Whichever family is dialled, the one that listens is found.
    for ipv6 in [false, true] {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut outside = dial(ipv6, service.local_addr().unwrap().port()).await;
        let (mut inside, _) = service.accept().await.unwrap();
        assert_eq!(outside.read_u8().await.unwrap(), b'+');
        outside.write_all(b"question").await.unwrap();
        outside.shutdown().await.unwrap();
        let mut question = String::new();
        inside.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        inside.write_all(b"answer").await.unwrap();
        drop(inside);
        let mut answer = String::new();
        outside.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}

#[tokio::test]
async fn where_nobody_listens_the_connection_is_closed_without_a_word() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    drop(service);
    let mut outside = dial(false, port).await;
    let mut answer = Vec::new();
    outside.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty());
}
