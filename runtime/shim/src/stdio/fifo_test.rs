use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode};
use tokio::io::AsyncWriteExt;

use super::{Input, Output, is_fifo};

fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("fifo");
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    path
}

#[tokio::test]
async fn an_output_waits_for_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            // Later than the writer's first attempt.
            std::thread::sleep(Duration::from_millis(50));
            let mut text = String::new();
            let mut fifo = OpenOptions::new().read(true).open(path).unwrap();
            fifo.read_to_string(&mut text).unwrap();
            text
        }
    });
    let mut output = Output::open(&path).await.unwrap();
    output.fifo.write_all(b"hello").await.unwrap();
    drop(output);
    assert_eq!(
        reader.join().unwrap(),
        "hello",
        "nothing is lost, and it ends"
    );
}

#[tokio::test]
async fn an_output_that_nobody_reads_is_an_error_and_leaves_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let began = std::time::Instant::now();
    let error = Output::open_within(&path, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("nobody opened it"), "{error}");
    // The runtime waits here for the thread that waited for the reader.
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn the_loss_of_the_reader_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let open_reader = || {
        let path = path.clone();
        tokio::task::spawn_blocking(move || OpenOptions::new().read(true).open(path).unwrap())
    };
    let first = open_reader();
    let mut output = Output::open(&path).await.unwrap();
    drop(first.await.unwrap());
    output.fifo.write_all(b"kept").await.unwrap();
    let mut second = open_reader().await.unwrap();
    drop(output);
    let mut text = String::new();
    second.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept");
}

#[tokio::test]
async fn input_outlives_a_writer_and_ends_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let Input { fifo, keeper } = Input::open(&path).unwrap();
    let read = async || {
        let mut buffer = [0; 64];
        loop {
            fifo.readable().await.unwrap();
            match fifo.try_read(&mut buffer) {
                Ok(length) => return String::from_utf8(buffer[..length].to_vec()).unwrap(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    for word in ["first", "second"] {
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(word.as_bytes()).unwrap();
        drop(writer);
        assert_eq!(read().await, word);
    }
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"last").unwrap();
    drop(keeper);
    assert_eq!(read().await, "last");
    drop(writer);
    assert_eq!(read().await, "", "the end");
}

#[test]
fn a_file_is_no_fifo() {
    let dir = tempfile::tempdir().unwrap();
    assert!(is_fifo(&fifo(dir.path())));
    assert!(!is_fifo(dir.path()));
    assert!(!is_fifo(&dir.path().join("missing")));
}
