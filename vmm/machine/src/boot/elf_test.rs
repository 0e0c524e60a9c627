use std::fs::File;
use std::io::Write;

use vm_memory::{Bytes, GuestAddress};
use zerocopy::FromZeros;

use super::super::Entry;
use super::{KernelError, load};
use crate::memory::{Backing, GuestRam};

const MIB: u64 = 1 << 20;
const HEADER: usize = 64;
const SEGMENT: usize = 56;

/// What goes into a kernel file.
struct Image {
    class: u8,
    machine: u16,
    kind: u16,
    entry: u64,
    /// Type, flags, physical address, content, bytes in memory.
    segments: Vec<(u32, u32, u64, Vec<u8>, u64)>,
}

impl Image {
    /// A kernel of a few bytes at 16 MiB.
    fn new() -> Self {
        Self {
            class: 2,
            machine: 62,
            kind: 2,
            entry: 16 * MIB + 1,
            segments: vec![(1, 5, 16 * MIB, b"code".to_vec(), 0x5000)],
        }
    }

    /// The same with a PVH note that names `entry`, behind another note.
    fn with_note(entry: u64) -> Self {
        let mut note = Vec::new();
        for (name, kind, content) in [
            ("GNU\0", 3u32, &[7; 20][..]),
            ("Xen\0", 18, &entry.to_le_bytes()),
        ] {
            note.extend(4u32.to_le_bytes());
            note.extend((content.len() as u32).to_le_bytes());
            note.extend(kind.to_le_bytes());
            note.extend(name.as_bytes());
            note.extend(content);
        }
        let mut image = Self::new();
        let length = note.len() as u64;
        image.segments.push((4, 0, 0, note, length));
        image
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(b"\x7fELF");
        bytes.extend([self.class, 1, 1]);
        bytes.resize(16, 0);
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.machine.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(self.entry.to_le_bytes());
        bytes.extend((HEADER as u64).to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((HEADER as u16).to_le_bytes());
        bytes.extend((SEGMENT as u16).to_le_bytes());
        bytes.extend((self.segments.len() as u16).to_le_bytes());
        bytes.resize(HEADER, 0);
        let mut offset = (HEADER + SEGMENT * self.segments.len()) as u64;
        for (kind, flags, address, content, memory_size) in &self.segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for value in [
                offset,
                0,
                *address,
                content.len() as u64,
                *memory_size,
                4096,
            ] {
                bytes.extend(value.to_le_bytes());
            }
            offset += content.len() as u64;
        }
        for (_, _, _, content, _) in &self.segments {
            bytes.extend(content);
        }
        bytes
    }
}

fn memory() -> GuestRam {
    GuestRam::new(64, Backing::Private).unwrap()
}

fn load_bytes(bytes: &[u8]) -> Result<super::Kernel, KernelError> {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    load(&memory(), &mut file)
}

fn refusal(image: &Image) -> KernelError {
    load_bytes(&image.bytes()).unwrap_err()
}

#[test]
fn segments_go_where_they_ask_to() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&Image::new().bytes()).unwrap();
    let memory = memory();
    let kernel = load(&memory, &mut file).unwrap();
    let mut code = [0; 5];
    memory
        .read_slice(&mut code, GuestAddress(16 * MIB))
        .unwrap();
    assert_eq!(&code, b"code\0");
    assert_eq!(kernel.end, 16 * MIB + 0x5000);
}

#[test]
fn the_64_bit_entry_is_preferred() {
    let mut image = Image::with_note(16 * MIB + 2);
    let kernel = load_bytes(&image.bytes()).unwrap();
    assert_eq!(kernel.entry, Entry::Linux64(16 * MIB + 1));
    image.entry = 0xffff_ffff_8100_0000;
    let kernel = load_bytes(&image.bytes()).unwrap();
    assert_eq!(kernel.entry, Entry::Pvh(0x100_0002));
}

#[test]
fn a_kernel_without_any_way_in_names_the_option_it_lacks() {
    let mut image = Image::new();
    image.entry = 0xffff_ffff_8100_0000;
    let error = refusal(&image);
    assert!(matches!(error, KernelError::NoEntry(0xffff_ffff_8100_0000)));
    assert!(error.to_string().contains("CONFIG_PVH"));
    image.entry = 16 * MIB + 4;
    assert!(
        matches!(refusal(&image), KernelError::NoEntry(_)),
        "behind the code"
    );
    image.entry = 16 * MIB;
    image.segments[0].1 = 6;
    assert!(
        matches!(refusal(&image), KernelError::NoEntry(_)),
        "not executable"
    );
}

#[test]
fn a_pvh_entry_outside_the_kernel_is_refused() {
    for entry in [0, 32 * MIB, (1 << 32) | (16 * MIB), u64::MAX] {
        // Only the lower half counts: that is all the entry can be.
        if entry & 0xffff_ffff == 16 * MIB {
            continue;
        }
        let error = refusal(&Image::with_note(entry));
        assert!(matches!(error, KernelError::BadPvhEntry(_)), "{entry:#x}");
    }
}

#[test]
fn what_is_not_an_elf_file_says_what_it_is_instead() {
    for content in [
        &b"MZ\x90\x00 a bzImage of some length, longer than a header, which has 64 bytes"[..],
        b"#!/bin/sh\n",
        b"\x1f\x8b\x08\x00",
    ] {
        let error = load_bytes(content).unwrap_err();
        assert!(
            matches!(error, KernelError::NotElf(magic) if magic == content[..4]),
            "{error}"
        );
    }
    assert!(matches!(
        load_bytes(b""),
        Err(KernelError::NotElf([0, 0, 0, 0]))
    ));
}

#[test]
fn other_machines_are_refused() {
    let wrong: [fn(&mut Image); 2] = [|image| image.class = 1, |image| image.machine = 183];
    for change in wrong {
        let mut image = Image::new();
        change(&mut image);
        assert!(matches!(refusal(&image), KernelError::WrongMachine { .. }));
    }
    let mut image = Image::new();
    image.kind = 1;
    assert!(matches!(
        refusal(&image),
        KernelError::BadHeader { kind: 1, .. }
    ));
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bytes = Image::with_note(16 * MIB).bytes();
    for length in 4..bytes.len() {
        let error = load_bytes(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, KernelError::Truncated { length: found, needed }
                if found == length as u64 && needed > found),
            "{length}: {error}"
        );
    }
    assert!(load_bytes(&bytes).is_ok());
}

#[test]
fn a_kernel_larger_than_memory_says_how_much_it_needs() {
    let mut image = Image::new();
    image.segments[0].4 = 48 * MIB;
    assert!(load_bytes(&image.bytes()).is_ok());
    image.segments[0].4 += 1;
    let error = refusal(&image);
    assert!(matches!(
        error,
        KernelError::TooLarge { needed, memory }
            if needed == 64 * MIB + 1 && memory == 64 * MIB
    ));
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    let mut image = Image::new();
    image.segments[0].4 = 3;
    assert!(matches!(refusal(&image), KernelError::BadSegment { .. }));
    image.segments[0].4 = u64::MAX - 5;
    assert!(matches!(refusal(&image), KernelError::BadSegment { .. }));
    let mut image = Image::new();
    image.segments[0].2 = MIB - 4096;
    assert!(matches!(
        refusal(&image),
        KernelError::TooLow { index: 0, .. }
    ));
    let mut image = Image::new();
    image.segments.clear();
    assert!(matches!(refusal(&image), KernelError::Empty));
}

#[test]
fn many_or_odd_program_headers_are_refused() {
    for (offset, value) in [(56, 65u16), (54, 55)] {
        let mut bytes = Image::new().bytes();
        bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        assert!(matches!(
            load_bytes(&bytes),
            Err(KernelError::BadHeader { .. })
        ));
    }
    let mut bytes = Image::new().bytes();
    bytes[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load_bytes(&bytes).is_err());
}

/// One flipped byte in the headers and notes: loaded or refused, never more.
#[test]
fn damaged_headers_are_never_fatal() {
    let bytes = Image::with_note(16 * MIB).bytes();
    for position in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            let _ = load_bytes(&damaged);
        }
    }
}

#[test]
fn a_huge_page_of_which_the_kernel_uses_little_is_not_one() {
    let segment = |address: u64, size: u64| super::Segment {
        kind: super::LOAD.into(),
        address: address.into(),
        memory_size: size.into(),
        ..super::Segment::new_zeroed()
    };
    // As Linux is: code up to 23.3 MiB, two pages of it at 24, constants from 26 on.
    let mut segments = vec![
        segment(16 * MIB, 7 * MIB + MIB / 4),
        segment(24 * MIB, 8192),
        segment(26 * MIB, MIB),
        segment(28 * MIB, 2 * MIB + 4096),
    ];
    assert_eq!(super::sparse_pages(&segments), vec![24 * MIB..26 * MIB]);
    segments.push(segment(24 * MIB + 8192, MIB));
    assert!(super::sparse_pages(&segments).is_empty());
    // What is only begun by the kernel may be used by others.
    assert!(super::sparse_pages(&[segment(17 * MIB, 4096)]).is_empty());
    assert!(super::sparse_pages(&[]).is_empty());
}
