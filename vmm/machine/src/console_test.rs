use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use super::{Console, TAIL_LENGTH, Tail};

fn pipe() -> (File, File) {
    let (read, write) = std::io::pipe().unwrap();
    (OwnedFd::from(read).into(), OwnedFd::from(write).into())
}

#[test]
fn output_goes_to_the_file_and_into_the_tail() {
    let (mut read, write) = pipe();
    let tail = Tail::default();
    let mut console = Console::new(Some(write), tail.clone()).unwrap();
    console.write_all(b"hello\n").unwrap();
    drop(console);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
    assert_eq!(tail.text(), "hello\n");
}

#[test]
fn a_reader_that_does_not_read_blocks_nobody() {
    let (_read, write) = pipe();
    let mut console = Console::new(Some(write), Tail::default()).unwrap();
    for _ in 0..100_000 {
        console.write_all(b"x").unwrap();
    }
}

#[test]
fn a_reader_that_is_gone_does_not_matter() {
    let (read, write) = pipe();
    drop(read);
    let tail = Tail::default();
    let mut console = Console::new(Some(write), tail.clone()).unwrap();
    console.write_all(b"still here").unwrap();
    assert_eq!(tail.text(), "still here");
}

#[test]
fn the_tail_keeps_the_last_4_kib() {
    let tail = Tail::default();
    let mut console = Console::new(None, tail.clone()).unwrap();
    for line in 0..1000 {
        writeln!(console, "line {line}").unwrap();
    }
    let text = tail.text();
    assert_eq!(text.len(), TAIL_LENGTH);
    assert!(text.ends_with("line 998\nline 999\n"));
}

#[test]
fn bytes_that_are_no_text_do_not_make_it_longer() {
    let tail = Tail::default();
    let mut console = Console::new(None, tail.clone()).unwrap();
    console.write_all(&[0xff; 3 * TAIL_LENGTH]).unwrap();
    console.write_all(b"end").unwrap();
    let text = tail.text();
    assert!(text.len() <= TAIL_LENGTH);
    assert!(text.ends_with("\u{fffd}end"));
}

#[test]
fn a_panic_is_recognised() {
    let tail = Tail::default();
    let mut console = Console::new(None, tail.clone()).unwrap();
    console.write_all(b"[    0.1] Kernel panic").unwrap();
    assert!(!tail.shows_panic());
    console.write_all(b" - not syncing: no init\n").unwrap();
    assert!(tail.shows_panic());
    console.write_all(&[b'.'; 2 * TAIL_LENGTH]).unwrap();
    assert!(tail.shows_panic(), "whatever follows");
}

#[test]
fn what_only_begins_like_a_panic_is_none() {
    let tail = Tail::default();
    let mut console = Console::new(None, tail.clone()).unwrap();
    console.write_all(b"Kernel panic - Kernel pKerne").unwrap();
    assert!(!tail.shows_panic());
    console.write_all(b"KKernel panic - not syncing").unwrap();
    assert!(tail.shows_panic());
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let (read, _write) = pipe();
    assert!(Console::new(Some(read), Tail::default()).is_err());
}
