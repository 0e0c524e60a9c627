use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caisson_sandbox::ProcessStreams;
use rustix::fs::{CWD, Mode};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::CHUNK;
use crate::stdio::{ProcessIo, Stdio, StdioPaths};

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    path
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Opens `paths` and connects them; returns the copying and the guest's ends.
async fn connect(paths: &StdioPaths) -> (ProcessIo, ProcessStreams) {
    let stdio = Stdio::open(paths, "default", "c1").await.unwrap();
    let (stdin, guest_stdin) = UnixStream::pair().unwrap();
    let (stdout, guest_stdout) = UnixStream::pair().unwrap();
    let (stderr, guest_stderr) = UnixStream::pair().unwrap();
    let host = ProcessStreams {
        stdin: stdio.has_stdin().then_some(stdin),
        stdout: stdio.has_stdout().then_some(stdout),
        stderr: stdio.has_stderr().then_some(stderr),
    };
    let guest = ProcessStreams {
        stdin: Some(guest_stdin),
        stdout: Some(guest_stdout),
        stderr: Some(guest_stderr),
    };
    let io = stdio.connect(host, None);
    io.open_stdin();
    (io, guest)
}

/// Reads `path` to its end in a thread.
fn reader(path: PathBuf) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let mut fifo = OpenOptions::new().read(true).open(path).unwrap();
        fifo.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn outputs(dir: &Path) -> (StdioPaths, PathBuf, PathBuf) {
    let (stdout, stderr) = (fifo(dir, "stdout"), fifo(dir, "stderr"));
    let paths = StdioPaths {
        stdout: text(&stdout),
        stderr: text(&stderr),
        ..StdioPaths::default()
    };
    (paths, stdout, stderr)
}

#[tokio::test]
async fn output_arrives_whole_and_ends_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, stdout, stderr) = outputs(dir.path());
    let (out, err) = (reader(stdout), reader(stderr));
    let (io, mut guest) = connect(&paths).await;
    let drained = io.drained();
    let chunk: Vec<u8> = (0..100_000_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut sent = Sha256::new();
    let mut stream = guest.stdout.take().unwrap();
    for _ in 0..320 {
        stream.write_all(&chunk).await.unwrap();
        sent.update(&chunk);
    }
    guest
        .stderr
        .take()
        .unwrap()
        .write_all(b"oops")
        .await
        .unwrap();
    drop(stream);
    timeout(Duration::from_secs(10), drained).await.unwrap();
    let received = out.await.unwrap();
    assert_eq!(received.len(), 32_000_000);
    assert_eq!(Sha256::digest(&received), sent.finalize());
    assert_eq!(err.await.unwrap(), b"oops");
}

#[tokio::test]
async fn a_reader_that_stops_holds_up_its_own_stream_only() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, stdout, stderr) = outputs(dir.path());
    let stalled = std::thread::spawn(|| OpenOptions::new().read(true).open(stdout).unwrap());
    let err = reader(stderr);
    let (io, mut guest) = connect(&paths).await;
    let mut stalled = stalled.join().unwrap();
    let mut stream = guest.stdout.take().unwrap();
    let full = timeout(Duration::from_millis(300), async {
        loop {
            stream.write_all(&[7; 4096]).await.unwrap();
        }
    });
    assert!(full.await.is_err(), "the process feels the backpressure");
    guest
        .stderr
        .take()
        .unwrap()
        .write_all(b"still here")
        .await
        .unwrap();
    assert_eq!(err.await.unwrap(), b"still here");
    let drained = io.drained();
    drop(stream);
    let rest = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stalled.read_to_end(&mut bytes).unwrap();
        bytes
    });
    timeout(Duration::from_secs(10), drained).await.unwrap();
    let rest = rest.await.unwrap();
    assert!(rest.len() > 65_536 && rest.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn output_waits_for_a_reader_that_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdout");
    let paths = StdioPaths {
        stdout: text(&path),
        ..StdioPaths::default()
    };
    let first = {
        let path = path.clone();
        std::thread::spawn(|| OpenOptions::new().read(true).open(path).unwrap())
    };
    let (io, mut guest) = connect(&paths).await;
    drop(first.join().unwrap());
    let mut stream = guest.stdout.take().unwrap();
    stream.write_all(b"while nobody looked").await.unwrap();
    // The copying has happened once the pipe holds it; a new reader finds it there.
    let again = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 19];
        let mut fifo = OpenOptions::new().read(true).open(path).unwrap();
        fifo.read_exact(&mut bytes).unwrap();
        bytes
    });
    assert_eq!(again.await.unwrap(), b"while nobody looked");
    drop(stream);
    timeout(Duration::from_secs(10), io.drained())
        .await
        .unwrap();
}

#[tokio::test]
async fn input_ends_only_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdin");
    let paths = StdioPaths {
        stdin: text(&path),
        ..StdioPaths::default()
    };
    let (io, mut guest) = connect(&paths).await;
    let mut stream = guest.stdin.take().unwrap();
    let mut buffer = [0; 5];
    for word in [b"first", b"again"] {
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(word).unwrap();
        drop(writer);
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, word);
    }
    let early = timeout(Duration::from_millis(100), stream.read(&mut buffer)).await;
    assert!(
        early.is_err(),
        "a client that detaches does not end the input"
    );
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"last").unwrap();
    drop(writer);
    io.close_stdin();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
}

/// A client that wrote and closed its input before the process started.
#[tokio::test]
async fn input_closed_before_the_start_is_delivered_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "stdin");
    let paths = StdioPaths {
        stdin: text(&path),
        ..StdioPaths::default()
    };
    let stdio = Stdio::open(&paths, "default", "c1").await.unwrap();
    let (stdin, mut stream) = UnixStream::pair().unwrap();
    let streams = ProcessStreams {
        stdin: Some(stdin),
        ..ProcessStreams::default()
    };
    let io = stdio.connect(streams, None);
    let writer = std::thread::spawn(move || {
        // Blocks until the other end is opened.
        let mut writer = OpenOptions::new().write(true).open(path).unwrap();
        writer.write_all(b"early").unwrap();
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!writer.is_finished(), "the client cannot run ahead");
    io.close_stdin();
    io.open_stdin();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    ended.await.unwrap().unwrap();
    assert_eq!(rest, b"early");
    writer.join().unwrap();
}

#[tokio::test]
async fn input_closed_without_any_writer_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StdioPaths {
        stdin: text(&fifo(dir.path(), "stdin")),
        ..StdioPaths::default()
    };
    let (io, mut guest) = connect(&paths).await;
    io.close_stdin();
    let mut rest = Vec::new();
    let mut stream = guest.stdin.take().unwrap();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    assert_eq!(ended.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn output_goes_to_a_file_with_its_directories() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/pod/0.log");
    let paths = StdioPaths {
        stdout: format!("file://{}", path.display()),
        stderr: format!("file://{}", path.display()),
        ..StdioPaths::default()
    };
    let (io, mut guest) = connect(&paths).await;
    guest
        .stdout
        .take()
        .unwrap()
        .write_all(b"out\n")
        .await
        .unwrap();
    guest
        .stderr
        .take()
        .unwrap()
        .write_all(b"err\n")
        .await
        .unwrap();
    timeout(Duration::from_secs(10), io.drained())
        .await
        .unwrap();
    let mut lines: Vec<_> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
}

#[tokio::test]
async fn a_sink_that_fails_does_not_block_the_process() {
    let paths = StdioPaths {
        stdout: "file:///dev/full".into(),
        ..StdioPaths::default()
    };
    let (io, mut guest) = connect(&paths).await;
    let mut stream = guest.stdout.take().unwrap();
    let written = timeout(Duration::from_secs(10), stream.write_all(&[0; 4 << 20]));
    written.await.unwrap().unwrap();
    drop(stream);
    timeout(Duration::from_secs(10), io.drained())
        .await
        .unwrap();
}

/// The shim has one thread for everything: while this output is discarded, others must get on.
#[tokio::test]
async fn a_process_that_never_stops_to_write_holds_up_nobody() {
    /// Gigabytes, which take seconds: only one who holds the thread sees their end.
    const MOST: usize = 4 << 30;
    let paths = StdioPaths {
        stdout: "file:///dev/full".into(),
        ..StdioPaths::default()
    };
    let (io, mut guest) = connect(&paths).await;
    let mut stream = guest.stdout.take().unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let writer = tokio::task::spawn_blocking(move || {
        let chunk = [0; CHUNK];
        let mut written = 0;
        while written < MOST && !stop.load(Ordering::Relaxed) {
            stream.write_all(&chunk).unwrap();
            written += chunk.len();
        }
        written
    });
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    enough.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() < MOST);
    drop(io);
}

#[tokio::test]
async fn a_logging_program_gets_both_outputs() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("logger");
    let log = dir.path().join("log");
    // Ready, then both streams to their ends, one after the other.
    let script = "#!/bin/sh\nexec 5>&-\n{ echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID $1\"; \
                  cat <&3; cat <&4; } >\"$2\"\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?path={}", program.display(), log.display());
    let paths = StdioPaths {
        stdout: uri.clone(),
        stderr: uri,
        ..StdioPaths::default()
    };
    let (io, mut guest) = connect(&paths).await;
    guest
        .stdout
        .take()
        .unwrap()
        .write_all(b"out\n")
        .await
        .unwrap();
    guest
        .stderr
        .take()
        .unwrap()
        .write_all(b"err\n")
        .await
        .unwrap();
    timeout(Duration::from_secs(10), io.drained())
        .await
        .unwrap();
    let written = timeout(Duration::from_secs(10), async {
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.lines().count() == 3 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(written.await.unwrap(), "default/c1 path\nout\nerr\n");
}

#[tokio::test]
async fn a_terminal_has_no_stderr() {
    let paths = StdioPaths {
        stderr: "/does/not/exist".into(),
        terminal: true,
        ..StdioPaths::default()
    };
    let stdio = Stdio::open(&paths, "default", "c1").await.unwrap();
    assert!(!stdio.has_stderr());
}

#[tokio::test]
async fn a_missing_fifo_is_named() {
    let paths = StdioPaths {
        stdout: "/does/not/exist".into(),
        ..StdioPaths::default()
    };
    let error = Stdio::open(&paths, "default", "c1").await.unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("stdout") && error.contains("/does/not/exist"),
        "{error}"
    );
}
