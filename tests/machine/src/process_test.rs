#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{spawn, wait};

#[test]
fn a_program_finds_its_files_from_descriptor_three_on() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/process_test.sh");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (mut answers, output) = UnixStream::pair().unwrap();
    let mut child = spawn(&program, &[theirs.as_fd(), output.as_fd()]).unwrap();
    drop((theirs, output));
    ours.write_all(b"through and back").unwrap();
    drop(ours);
    let mut text = String::new();
    answers.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through and back");
    assert_eq!(wait(&mut child).unwrap().code(), Some(5));
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let missing = spawn(Path::new("/no/such/program"), &[null.as_fd()]);
    assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}
