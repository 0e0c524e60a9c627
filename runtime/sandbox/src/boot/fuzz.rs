//! A fuzz target: the first words of an agent that a hostile guest has replaced.
//!
//! They are the only bytes of a connection of the guest, beside the answers of the agent and the heads of
//! questions to a name server, that the host makes anything of: the streams of processes are passed on as
//! they are.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use caisson_fuzz::{Random, run};
use caisson_protocol::{Hello, MAX_HELLO, VERSION};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{START, check, read_hello};

/// What `cargo test` plays.
const ROUNDS: u64 = 40;
/// Hellos of a round.
const STEPS: u64 = 20;
/// Longest error: two lines of 1024 characters of up to four bytes, and our own words.
const LONGEST: usize = 9000;

#[test]
fn hello() {
    run("hello", ROUNDS, |random| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        for _ in 0..STEPS {
            random.step();
            runtime.block_on(one(random));
        }
    });
}

async fn one(random: &mut Random) {
    let said = Hello {
        version: random.pick(&[VERSION, VERSION, VERSION + 1, u32::MAX]),
        kernel: text(random),
        missing: (0..random.below(4)).map(|_| text(random)).collect(),
    };
    let line = said.to_line();
    let honest = line.is_ok() && random.one_in(3);
    let mut bytes = line.unwrap_or_else(|_| vec![b' '; MAX_HELLO * 2]);
    for _ in 0..random.below(3) {
        if !honest {
            lie(random, &mut bytes);
        }
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (connected, is_connected) = oneshot::channel();
    connected.send(theirs.into()).unwrap();
    let reading = tokio::spawn(async move { timeout(START, read_hello(is_connected)).await });
    send(random, &ours, &bytes).await;
    // Or it stays and says nothing more.
    let leaves = random.one_in(2);
    if leaves {
        drop(ours.shutdown(random.pick(&[Shutdown::Write, Shutdown::Both])));
    }
    let Ok(read) = reading.await.unwrap() else {
        assert!(!honest && !leaves, "nothing came of {} bytes", bytes.len());
        return;
    };
    if honest {
        assert_eq!(read.as_ref(), Ok(&said));
    }
    let checked = read
        .and_then(|hello| check(&hello, Path::new("/vmlinux")).map_err(|error| error.to_string()));
    if let Err(problem) = checked {
        assert!(problem.len() < LONGEST, "{} bytes", problem.len());
        assert!(!problem.contains(char::is_control), "{problem:?}");
    }
}

fn text(random: &mut Random) -> String {
    let text = random.pick(&[
        "CONFIG_MEMCG",
        "6.12.0",
        "",
        "\u{202e}\x1b[2J\n\0",
        "\"\\",
        "💾",
    ]);
    text.repeat(random.pick(&[1, 1, 1, 20, 300, 3000]))
}

/// Makes something else of a line.
fn lie(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.index(bytes.len() + 1);
    match random.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let inserted = random.bytes(3);
            bytes.splice(at..at, inserted);
        }
        // Lists and objects in one another, numbers without an end, and what JSON allows twice.
        2 => {
            let part = random.pick(&[
                "[",
                "{\"a\":",
                "9",
                "-",
                "1e999",
                "\\ud800",
                "\n",
                "\"version\":1,",
            ]);
            let part = part.repeat(random.pick(&[1, 1, 127, 129, 2000]));
            bytes.splice(at..at, part.into_bytes());
        }
        3 => bytes.extend(vec![b'x'; random.pick(&[1, MAX_HELLO, 1 << 17])]),
        4 if at < bytes.len() => bytes[at] = random.next() as u8,
        _ => bytes.retain(|byte| *byte != b'\n'),
    }
}

/// Sends in pieces, as far as the other side takes them.
async fn send(random: &mut Random, mut stream: &UnixStream, mut bytes: &[u8]) {
    stream.set_nonblocking(true).unwrap();
    while !bytes.is_empty() {
        let length = 1 + random.index(bytes.len());
        let now = bytes.get(..length).unwrap_or(bytes);
        let Ok(sent) = stream.write(now) else { return };
        bytes = bytes.get(sent..).unwrap_or_default();
        if random.one_in(2) {
            yield_now().await;
        }
    }
}
