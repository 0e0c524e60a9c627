use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use caisson_protocol::{NAME_HEADER, NAME_SERVICE, NameHeader, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::time::timeout;

use super::{MAX_WAITING, serve};
use crate::socket::Listener;

/// The host's end, once the agent listens at `address`; `None` where that takes privileges.
async fn host(address: [u8; 4]) -> Option<UnixStream> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
    tokio::spawn(serve(listener));
    let mut host = UnixStream::connect(&path).await.unwrap();
    host.write_all(&address).await.unwrap();
    match host.read_u8().await {
        Ok(listening) => {
            assert_eq!(listening, b'+');
            Some(host)
        }
        Err(error) => {
            println!("skipped: {error}, needs root and port 53 of a loopback address");
            None
        }
    }
}

async fn question(host: &mut UnixStream) -> (NameHeader, Vec<u8>) {
    let mut header = [0; NAME_HEADER];
    let _ = host.read_exact(&mut header).await.unwrap();
    let header = NameHeader::from_bytes(header).unwrap();
    let mut bytes = vec![0; header.length.into()];
    let _ = host.read_exact(&mut bytes).await.unwrap();
    (header, bytes)
}

async fn answer(host: &mut UnixStream, to: NameHeader, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap();
    let header = NameHeader { length, ..to }.to_bytes();
    host.write_all(&[&header, bytes].concat()).await.unwrap();
}

async fn asks(server: [u8; 4], bytes: &[u8]) -> UdpSocket {
    let asker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = (Ipv4Addr::from(server), NAME_SERVICE);
    asker.connect(server).await.unwrap();
    asker.send(bytes).await.unwrap();
    asker
}

async fn hears(asker: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 100];
    let received = timeout(Duration::from_secs(60), asker.recv(&mut answer)).await;
    answer.truncate(received.unwrap().unwrap());
    answer
}

#[tokio::test]
async fn each_gets_the_answer_to_its_own_question_from_the_server_that_it_asked() {
    let server = [127, 0, 53, 1];
    let Some(mut host) = host(server).await else {
        return;
    };
    let one = asks(server, b"one?").await;
    let (first, bytes) = question(&mut host).await;
    assert_eq!(
        (first.transport, bytes.as_slice()),
        (Transport::Udp, &b"one?"[..])
    );
    let two = asks(server, b"two?").await;
    let (second, bytes) = question(&mut host).await;
    assert_eq!(bytes, b"two?");
    answer(&mut host, second, b"two!").await;
    answer(&mut host, first, b"one!").await;
    assert_eq!(hears(&one).await, b"one!");
    assert_eq!(hears(&two).await, b"two!");
    // Twice, or to nobody, is to nobody.
    answer(&mut host, first, b"again").await;
    let three = asks(server, b"three?").await;
    let (third, _) = question(&mut host).await;
    answer(&mut host, third, b"three!").await;
    assert_eq!(hears(&three).await, b"three!");
}

#[tokio::test]
async fn a_connection_asks_one_question_after_the_other_and_is_closed_without_an_answer() {
    let server = [127, 0, 53, 2];
    let Some(mut host) = host(server).await else {
        return;
    };
    let address = (Ipv4Addr::from(server), NAME_SERVICE);
    let mut asker = TcpStream::connect(address).await.unwrap();
    for (number, asked, answered) in [(1, b"one?", &b"long answer"[..]), (2, b"two?", b"short")] {
        asker.write_u16(4).await.unwrap();
        asker.write_all(asked).await.unwrap();
        let (header, bytes) = question(&mut host).await;
        assert_eq!(bytes, asked, "{number}");
        assert_eq!(header.transport, Transport::Tcp);
        answer(&mut host, header, answered).await;
        let mut bytes = vec![0; asker.read_u16().await.unwrap().into()];
        let _ = asker.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, answered);
    }
    asker.write_u16(4).await.unwrap();
    asker.write_all(b"last").await.unwrap();
    let (header, _) = question(&mut host).await;
    answer(&mut host, header, b"").await;
    assert!(asker.read_u16().await.is_err());
}

#[tokio::test]
async fn those_who_get_no_answer_are_forgotten_and_the_others_are_served() {
    let server = [127, 0, 53, 3];
    let Some(mut host) = host(server).await else {
        return;
    };
    let oldest = asks(server, b"oldest?").await;
    let (first, _) = question(&mut host).await;
    for _ in 0..MAX_WAITING {
        let _ = asks(server, b"more?").await;
        let _ = question(&mut host).await;
    }
    answer(&mut host, first, b"too late").await;
    let last = asks(server, b"last?").await;
    let (header, _) = question(&mut host).await;
    answer(&mut host, header, b"in time").await;
    assert_eq!(hears(&last).await, b"in time");
    assert!(oldest.try_recv(&mut [0; 10]).is_err());
}

#[tokio::test]
async fn an_address_that_is_not_the_guests_is_not_listened_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
    tokio::spawn(serve(listener));
    let mut host = UnixStream::connect(&path).await.unwrap();
    host.write_all(&[192, 0, 2, 1]).await.unwrap();
    assert!(host.read_u8().await.is_err());
}
