use std::fs::File;
use std::io::Write;

use vm_memory::Bytes;

use super::{InitrdError, load};
use crate::memory::{Backing, GuestRam};

const MIB: u64 = 1 << 20;

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn it_lies_on_the_page_behind_the_kernel() {
    let memory = GuestRam::new(64, Backing::Private).unwrap();
    let initrd = load(&memory, &mut file(b"cpio"), 0x123_4567).unwrap();
    assert_eq!(initrd.address.0, 0x123_5000);
    assert_eq!(initrd.length, 4);
    let mut content = [0; 4];
    memory.read_slice(&mut content, initrd.address).unwrap();
    assert_eq!(&content, b"cpio");
}

#[test]
fn one_that_does_not_fit_is_refused_with_the_numbers() {
    let memory = GuestRam::new(64, Backing::Private).unwrap();
    let content = vec![1; 4097];
    let end = 64 * MIB - 4096;
    let error = load(&memory, &mut file(&content), end).unwrap_err();
    assert!(matches!(
        error,
        InitrdError::TooLarge { length: 4097, memory, kernel_end }
            if memory == 64 * MIB && kernel_end == end
    ));
    assert!(load(&memory, &mut file(&content), u64::MAX - 5).is_err());
    assert!(load(&memory, &mut file(&content[1..]), end).is_ok());
}

#[test]
fn an_empty_one_is_refused() {
    let memory = GuestRam::new(64, Backing::Private).unwrap();
    let error = load(&memory, &mut file(b""), MIB).unwrap_err();
    assert!(matches!(error, InitrdError::Empty));
}
