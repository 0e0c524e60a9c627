#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use caisson_machine_tests::{Address, Comparison, Frame, Pattern, Request};

use super::serve;

/// Sends a request and what follows it, and returns everything that comes back.
fn asked(request: &Request, input: &[u8]) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let guest = thread::spawn(move || serve(&File::from(OwnedFd::from(theirs))));
    ours.write_all(&request.to_line()).unwrap();
    let mut sending = ours.try_clone().unwrap();
    let mut output = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Not everybody reads everything.
            let _ = sending.write_all(input);
            let _ = sending.shutdown(Shutdown::Write);
        });
        match ours.read_to_end(&mut output) {
            // Who leaves something unread ends the connection like this, after all it has sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            end => drop(end.unwrap()),
        }
    });
    guest.join().unwrap();
    output
}

/// The same for a request that is answered by frames: standard output, standard error, exit code.
fn answered(request: &Request, input: &[u8]) -> (String, String, i32) {
    let bytes = asked(request, input);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut source = bytes.as_slice();
    loop {
        match Frame::read_from(&mut source).unwrap() {
            Frame::Stdout(bytes) => stdout.extend(bytes),
            Frame::Stderr(bytes) => stderr.extend(bytes),
            Frame::Exit(code) => {
                assert!(source.is_empty(), "something follows the exit code");
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (text(stdout), text(stderr), code);
            }
        }
    }
}

fn run(argv: &[&str]) -> Request {
    let argv = argv.iter().map(ToString::to_string).collect();
    Request::Run { argv }
}

#[test]
fn a_program_has_three_streams_and_an_exit_code() {
    let request = run(&["sh", "-c", "cat; echo error >&2; exit 7"]);
    let (stdout, stderr, code) = answered(&request, b"input");
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), code),
        ("input", "error\n", 7)
    );
}

#[test]
fn a_program_that_does_not_read_ends_all_the_same() {
    let (stdout, _, code) = answered(&run(&["echo", "done"]), &vec![0; 1 << 20]);
    assert_eq!((stdout.as_str(), code), ("done\n", 0));
}

#[test]
fn a_program_that_a_signal_ends_has_a_code_above_128() {
    let (_, _, code) = answered(&run(&["sh", "-c", "kill -9 $$"]), b"");
    assert_eq!(code, 137);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let (_, stderr, code) = answered(&run(&["/no/such/program"]), b"");
    assert_eq!(code, 127);
    assert!(stderr.contains("/no/such/program"), "{stderr}");
}

#[test]
fn an_echo_ends_with_what_is_sent() {
    let bytes = Pattern::bytes(5, 300_000);
    assert!(asked(&Request::Echo, &bytes) == bytes);
}

#[test]
fn a_pattern_is_sent_and_received() {
    let (seed, bytes) = (9, 100_000);
    let sent = asked(&Request::Send { seed, bytes }, b"");
    Comparison::of(&mut sent.as_slice(), seed, bytes).unwrap();
    let (_, _, code) = answered(&Request::Receive { seed, bytes }, &sent);
    assert_eq!(code, 0);
    let seed = 10;
    let (_, stderr, code) = answered(&Request::Receive { seed, bytes }, &sent);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("byte 0 "), "{stderr}");
}

#[test]
fn a_pattern_in_a_file_is_written_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file").display().to_string();
    let (seed, bytes) = (3, 123_457);
    let write = Request::WritePattern {
        path: path.clone(),
        seed,
        bytes,
    };
    assert_eq!(answered(&write, b""), (String::new(), String::new(), 0));
    let check = |bytes| {
        let path = path.clone();
        answered(&Request::CheckPattern { path, seed, bytes }, b"").2
    };
    assert_eq!((check(bytes), check(bytes + 1)), (0, 1));
}

#[test]
fn connections_are_dialed_and_compared() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dial = Request::Dial {
        address: Address::Tcp(listener.local_addr().unwrap().to_string()),
        seed: 1,
        sizes: vec![0, 1, 100_000],
    };
    let host = thread::spawn(move || {
        let accepted: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        for connection in accepted {
            std::io::copy(&mut &connection, &mut &connection).unwrap();
        }
    });
    assert_eq!(answered(&dial, b""), (String::new(), String::new(), 0));
    host.join().unwrap();
}

#[test]
fn a_stream_is_sent_or_taken_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let bytes = 200_001;
    for send in [Some(bytes), None] {
        let address = address.clone();
        let guest = thread::spawn(move || answered(&Request::Stream { address, send }, b""));
        let (mut connection, _) = listener.accept().unwrap();
        if send.is_none() {
            connection.write_all(&vec![0; 200_001]).unwrap();
        }
        connection.shutdown(Shutdown::Write).unwrap();
        let mut taken = Vec::new();
        connection.read_to_end(&mut taken).unwrap();
        assert_eq!(taken.len() as u64, send.unwrap_or(0));
        assert_eq!(guest.join().unwrap(), (String::new(), String::new(), 0));
    }
}

#[test]
fn an_interface_that_is_not_there_gets_no_address() {
    let request = Request::SetAddress {
        interface: "none0".into(),
        address: [192, 0, 2, 1],
        prefix: 24,
    };
    let (_, stderr, code) = answered(&request, b"");
    assert_eq!(code, 1);
    assert!(stderr.contains("No such device"), "{stderr}");
}

#[test]
fn a_file_that_is_not_there_is_an_answer() {
    let path = "/no/such/file".to_owned();
    let (_, stderr, code) = answered(&Request::ReadFile { path }, b"");
    assert_eq!(code, 1);
    assert!(stderr.contains("No such file"), "{stderr}");
}
