use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;

use super::{MAX_SLICES, read, write};

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

#[test]
fn slices_are_filled_front_to_back() {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"abcdefg").unwrap();
    let (mut first, mut second, mut third) = ([0; 3], [0; 0], [0; 10]);
    let slices = [
        VolatileSlice::from(&mut first[..]),
        VolatileSlice::from(&mut second[..]),
        VolatileSlice::from(&mut third[..]),
    ];
    assert_eq!(read(ours.as_fd(), &slices).unwrap(), 7);
    assert_eq!((&first, &third), (b"abc", b"defg\0\0\0\0\0\0"));
}

#[test]
fn slices_are_written_front_to_back() {
    let (ours, mut theirs) = pair();
    let (mut first, mut second) = (*b"ab", *b"cde");
    let slices = [
        VolatileSlice::from(&mut first[..]),
        VolatileSlice::from(&mut second[..]),
    ];
    assert_eq!(write(ours.as_fd(), &slices).unwrap(), 5);
    let mut bytes = [0; 5];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abcde");
}

#[test]
fn an_error_is_passed_on() {
    let (ours, _theirs) = pair();
    let mut bytes = [0; 3];
    let slices = [VolatileSlice::from(&mut bytes[..])];
    let error = read(ours.as_fd(), &slices).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn what_the_kernel_does_not_take_in_one_call_is_left_out() {
    let (ours, _theirs) = pair();
    let mut bytes = vec![0; MAX_SLICES + 10];
    let slices: Vec<_> = bytes.chunks_mut(1).map(VolatileSlice::from).collect();
    assert_eq!(write(ours.as_fd(), &slices).unwrap(), MAX_SLICES);
}
