use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket as StdUdpSocket};

use caisson_protocol::{NAME_HEADER, NAME_SERVICE, NameHeader, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::test_namespace::TestNamespace;
use super::{DATAGRAM_SOCKETS, MAX_QUESTIONS, ask_all, name_server};

/// What docker's is.
const SERVER: [u8; 4] = [127, 0, 0, 11];

fn server() -> SocketAddr {
    (SERVER, NAME_SERVICE).into()
}

/// A connection as the agent has it.
fn guest(namespace: &TestNamespace) -> UnixStream {
    let (ours, guest) = UnixStream::pair().unwrap();
    let namespace = namespace.0.try_clone().unwrap();
    tokio::spawn(ask_all(ours, namespace, server()));
    guest
}

fn question(number: u32, transport: Transport, bytes: &[u8]) -> Vec<u8> {
    let header = NameHeader {
        number,
        transport,
        length: bytes.len().try_into().unwrap(),
    };
    [&header.to_bytes(), bytes].concat()
}

async fn answer(guest: &mut UnixStream) -> (NameHeader, Vec<u8>) {
    let mut header = [0; NAME_HEADER];
    let _ = guest.read_exact(&mut header).await.unwrap();
    let header = NameHeader::from_bytes(header).unwrap();
    let mut bytes = vec![0; header.length.into()];
    let _ = guest.read_exact(&mut bytes).await.unwrap();
    (header, bytes)
}

/// Answers each question with what was asked, backwards.
fn serve(namespace: &TestNamespace) {
    namespace.run("ip link set lo up");
    let (datagrams, connections) = namespace
        .0
        .run_blocking(|| {
            (
                StdUdpSocket::bind(server()).unwrap(),
                TcpListener::bind(server()).unwrap(),
            )
        })
        .unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 100];
        while let Ok((length, from)) = datagrams.recv_from(&mut question) {
            let answer: Vec<u8> = question[..length].iter().rev().copied().collect();
            datagrams.send_to(&answer, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for connection in connections.incoming() {
            let mut connection = connection.unwrap();
            let mut length = [0; 2];
            connection.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            connection.read_exact(&mut bytes).unwrap();
            bytes.reverse();
            connection
                .write_all(&[&length, &bytes[..]].concat())
                .unwrap();
        }
    });
}

#[tokio::test]
async fn a_question_is_asked_in_the_namespace_as_it_came() {
    let Some(namespace) = TestNamespace::new().await else {
        return;
    };
    serve(&namespace);
    let mut guest = guest(&namespace);
    for (number, transport) in [
        (7, Transport::Udp),
        (8, Transport::Tcp),
        (9, Transport::Udp),
    ] {
        let asked = question(number, transport, b"name?");
        guest.write_all(&asked).await.unwrap();
        let (header, answer) = answer(&mut guest).await;
        assert_eq!((header.number, header.transport), (number, transport));
        assert_eq!(answer, b"?eman");
    }
    // More at once than are asked at once.
    let many = u32::try_from(3 * MAX_QUESTIONS).unwrap();
    let (mut answers, mut questions) = guest.into_split();
    let asking = tokio::spawn(async move {
        for number in 0..many {
            let asked = question(number, Transport::Udp, &number.to_be_bytes());
            questions.write_all(&asked).await.unwrap();
        }
        questions
    });
    let mut numbers = Vec::new();
    for _ in 0..many {
        let mut message = [0; NAME_HEADER + 4];
        let _ = answers.read_exact(&mut message).await.unwrap();
        let [a, b, c, d, _, _, _, bytes @ ..] = message;
        numbers.push(u32::from_be_bytes([a, b, c, d]));
        assert_eq!(u32::from_le_bytes(bytes), u32::from_be_bytes([a, b, c, d]));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, Vec::from_iter(0..many));
    drop(asking.await.unwrap());
}

#[tokio::test]
async fn where_nobody_answers_the_guest_hears_so_and_one_that_talks_nonsense_is_hung_up_on() {
    let Some(namespace) = TestNamespace::new().await else {
        return;
    };
    namespace.run("ip link set lo up");
    let mut guest = guest(&namespace);
    for transport in [Transport::Udp, Transport::Tcp] {
        guest
            .write_all(&question(1, transport, b"name?"))
            .await
            .unwrap();
        let (header, answer) = answer(&mut guest).await;
        assert_eq!((header.number, answer.as_slice()), (1, &b""[..]));
    }
    guest.write_all(&[0; NAME_HEADER]).await.unwrap();
    assert!(guest.read_u8().await.is_err());
}

#[tokio::test]
async fn the_server_of_a_namespace_is_found_by_its_socket() {
    let Some(namespace) = TestNamespace::new().await else {
        return;
    };
    namespace.run("ip link set lo up");
    let found = |addresses: &[[u8; 4]]| {
        let sockets = namespace.0.run_blocking(|| {
            let open = |address: &[u8; 4]| {
                let address = SocketAddr::from((*address, 0));
                StdUdpSocket::bind(address).unwrap()
            };
            let _held: Vec<_> = addresses.iter().map(open).collect();
            std::fs::read_to_string(DATAGRAM_SOCKETS).unwrap()
        });
        name_server(&sockets.unwrap()).map(|address| address.octets())
    };
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[[127, 0, 0, 1], [0, 0, 0, 0]]), None);
    assert_eq!(found(&[[0, 0, 0, 0], SERVER]), Some(SERVER));
    assert_eq!(name_server("header\nnonsense\n0: zz:1 x\n"), None);
}
