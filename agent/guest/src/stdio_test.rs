use super::*;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use caisson_protocol::StreamId;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::socket::Listener;

const TIME: Duration = Duration::from_secs(20);

struct Host {
    streams: Streams,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("streams");
        let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
        let streams = Streams::default();
        tokio::spawn(streams.clone().serve(listener));
        Self {
            streams,
            path,
            _directory: directory,
        }
    }

    fn open(&self, number: u64) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream
            .write_all(&StreamId::new(number).unwrap().to_header())
            .unwrap();
        stream
    }

    fn claims(&self, stdin: u64, stdout: u64, stderr: u64) -> Claims {
        let stdio = agent::Stdio {
            stdin,
            stdout,
            stderr,
            ..Default::default()
        };
        Claims::new(&self.streams, &stdio).unwrap()
    }
}

fn file(fd: Option<OwnedFd>) -> std::fs::File {
    fd.unwrap().into()
}

#[tokio::test]
async fn the_last_byte_of_the_output_arrives_before_the_end() {
    let host = Host::new();
    let (side, _movers) = host.claims(0, 1, 0).connect_pipes().unwrap();
    assert!(side.stdin.is_none() && side.stderr.is_none());
    let mut output = file(side.stdout);
    let mut reader = host.open(1);
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = data.clone();
    let writer = spawn_blocking(move || output.write_all(&data).unwrap());
    let read = spawn_blocking(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    timeout(TIME, writer).await.unwrap().unwrap();
    assert!(timeout(TIME, read).await.unwrap().unwrap() == expected);
}

#[tokio::test]
async fn output_written_before_the_stream_came_is_kept() {
    let host = Host::new();
    let (side, _movers) = host.claims(0, 1, 2).connect_pipes().unwrap();
    file(side.stdout).write_all(b"early out").unwrap();
    file(side.stderr).write_all(b"early err").unwrap();
    for (number, expected) in [(1, "early out"), (2, "early err")] {
        let mut stream = host.open(number);
        let text = spawn_blocking(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(timeout(TIME, text).await.unwrap().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_host_that_stops_reading_does_not_stop_the_process() {
    let host = Host::new();
    let (side, _movers) = host.claims(0, 1, 0).connect_pipes().unwrap();
    drop(host.open(1));
    let mut output = file(side.stdout);
    let writer = spawn_blocking(move || {
        for _ in 0..64 {
            output.write_all(&[7; 65536]).unwrap();
        }
    });
    timeout(TIME, writer).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_the_input_stream_comes_after_its_data() {
    let host = Host::new();
    let (side, _movers) = host.claims(7, 0, 0).connect_pipes().unwrap();
    let mut input = file(side.stdin);
    let mut stream = host.open(7);
    let data = vec![3_u8; 1_000_000];
    let expected = data.clone();
    let writer = spawn_blocking(move || {
        stream.write_all(&data).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream
    });
    let read = spawn_blocking(move || {
        let mut all = Vec::new();
        input.read_to_end(&mut all).unwrap();
        all
    });
    assert!(timeout(TIME, read).await.unwrap().unwrap() == expected);
    timeout(TIME, writer).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_input_stream_is_closed_when_nobody_reads_the_pipe() {
    let host = Host::new();
    let (side, _movers) = host.claims(7, 0, 0).connect_pipes().unwrap();
    let stream = host.open(7);
    drop(side.stdin);
    let stream = Descriptor::new(stream.into()).unwrap();
    let end = timeout(TIME, stream.read(&mut [0])).await.unwrap();
    assert!(end.map_or_else(
        |e| e.kind() == io::ErrorKind::ConnectionReset,
        |count| count == 0
    ));
}

#[tokio::test]
async fn a_terminal_carries_both_directions_and_ends_with_its_last_user() {
    let host = Host::new();
    let (master, terminal) = crate::terminal::open().unwrap();
    let master = Arc::new(Descriptor::new(master).unwrap());
    crate::terminal::resize(master.as_fd(), 132, 43).unwrap();
    let size = rustix::termios::tcgetwinsize(&terminal).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (132, 43));
    let _movers = host.claims(1, 2, 0).connect_terminal(&master);
    let mut keyboard = host.open(1);
    let mut screen = host.open(2);
    keyboard.write_all(b"typed\n").unwrap();
    let mut terminal = std::fs::File::from(terminal);
    let mut line = [0_u8; 16];
    let (count, mut terminal) =
        spawn_blocking(move || (terminal.read(&mut line).unwrap(), terminal))
            .await
            .unwrap();
    assert_eq!(count, 6);
    terminal.write_all(b"shown\n").unwrap();
    drop(terminal);
    let text = spawn_blocking(move || {
        let mut text = String::new();
        screen.read_to_string(&mut text).unwrap();
        text
    });
    // The line discipline echoes the input and adds carriage returns.
    assert_eq!(
        timeout(TIME, text).await.unwrap().unwrap(),
        "typed\r\nshown\r\n"
    );
}
