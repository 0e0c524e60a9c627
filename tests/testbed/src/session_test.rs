//! The guest is played by a thread, the machine by a shell.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Session, Stdin, Stream};
use crate::exit_status::ExitStatus;
use crate::frame::{Decoder, Frame, STDIN_CREDIT};
use crate::qemu::Running;
use crate::request::Request;

/// Has a conversation with `guest`; what came out on each stream, and how it ended.
fn converse(
    stdin: Stdin,
    patience: Duration,
    guest: impl FnOnce(Guest) + Send,
) -> (Vec<(Stream, Vec<u8>)>, Result<ExitStatus>) {
    let (link, port) = UnixStream::pair().unwrap();
    let mut machine = Command::new("sh");
    let folder = tempfile::tempdir().unwrap();
    let spoken = folder.path().join("spoken");
    assert!(
        Command::new("mkfifo")
            .arg(&spoken)
            .status()
            .unwrap()
            .success()
    );
    machine.args(["-c", "echo last words; echo > \"$0\"; exec sleep 60"]);
    machine.arg(&spoken);
    let session = Session {
        machine: Running::spawn(machine, Vec::new()).unwrap(),
        link,
        request: &Request::Probe,
        stdin,
        signals: None,
        patience: Some(patience),
    };
    let mut out = Vec::new();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            guest(Guest {
                port,
                decoder: Decoder::default(),
                spoken,
            });
        });
        session.run(&mut |stream, bytes| {
            out.push((stream, bytes.to_vec()));
            Ok(())
        })
    });
    (out, result)
}

struct Guest {
    port: UnixStream,
    decoder: Decoder,
    /// A FIFO the machine writes to after its last words.
    spoken: PathBuf,
}

impl Guest {
    fn send(&mut self, frame: &Frame) {
        self.port.write_all(&frame.encode()).unwrap();
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let count = self.port.read(&mut buffer).unwrap();
            if count == 0 {
                return None;
            }
            self.decoder.push(&buffer[..count]);
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_streams_stay_apart_and_the_status_comes_back() {
    let (out, status) = converse(Stdin::Empty, LONG, |mut guest| {
        assert!(matches!(guest.receive(), Some(Frame::Request(_))));
        assert_eq!(guest.receive(), Some(Frame::StdinEnd));
        guest.send(&Frame::Started);
        guest.send(&Frame::Stdout(b"out".to_vec()));
        guest.send(&Frame::Stderr(b"err".to_vec()));
        guest.send(&Frame::Alive);
        guest.send(&Frame::Exit(42));
    });
    let expected = [
        (Stream::Stdout, b"out".to_vec()),
        (Stream::Stderr, b"err".to_vec()),
    ];
    assert_eq!(out, expected);
    assert_eq!(status.unwrap().code(), 42);
}

#[test]
fn input_waits_for_credit_and_then_ends() {
    let input: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let expected = input.clone();
    let (_, status) = converse(Stdin::Bytes(input), LONG, |mut guest| {
        assert!(matches!(guest.receive(), Some(Frame::Request(_))));
        let mut taken = Vec::new();
        let mut owed = 0;
        while let Some(Frame::Stdin(bytes)) = guest.receive() {
            owed += bytes.len();
            assert!(owed <= STDIN_CREDIT, "{owed} bytes without credit");
            taken.extend_from_slice(&bytes);
            // Paid for only when nothing more could come.
            if owed == STDIN_CREDIT {
                guest.send(&Frame::StdinTaken(u32::try_from(owed).unwrap()));
                owed = 0;
            }
        }
        guest.send(&Frame::Exit(u8::from(taken != expected)));
    });
    assert_eq!(status.unwrap().code(), 0, "the input arrived changed");
}

#[test]
fn a_machine_that_stops_early_is_an_error_with_its_last_words() {
    let (_, result) = converse(Stdin::Empty, LONG, |mut guest| {
        guest.receive();
        std::fs::read(&guest.spoken).unwrap();
    });
    let text = result.unwrap_err().to_string();
    assert!(text.contains("stopped before the command ended"), "{text}");
    assert!(text.contains("last words"), "{text}");
}

#[test]
fn a_machine_that_says_nothing_hangs() {
    let (_, result) = converse(Stdin::Empty, Duration::from_millis(300), |mut guest| {
        while guest.receive().is_some() {}
    });
    let text = result.unwrap_err().to_string();
    assert!(text.contains("hangs"), "{text}");
}

#[test]
fn a_request_that_failed_says_why() {
    let (_, result) = converse(Stdin::Empty, LONG, |mut guest| {
        guest.receive();
        guest.send(&Frame::Failed("containerd ended with status 1".into()));
        while guest.receive().is_some() {}
    });
    let text = result.unwrap_err().to_string();
    assert!(text.contains("containerd ended with status 1"), "{text}");
}

#[test]
fn nonsense_on_the_port_is_an_error() {
    let (_, result) = converse(Stdin::Empty, LONG, |mut guest| {
        guest.port.write_all(&[99, 0, 0, 0, 0]).unwrap();
        while guest.receive().is_some() {}
    });
    let text = format!("{:#}", result.unwrap_err());
    assert!(text.contains("unknown frame of kind 99"), "{text}");
}
