//! Kernel and initrd files that are nearly right. They come from the operator, not from the guest;
//! but a damaged one should be refused with a sentence and not by a crash.

use std::fs::File;
use std::io::Write;

use rustix::fs::MemfdFlags;

use super::{Random, run};
use crate::boot::{Entry, elf, initrd};
use crate::memory::{Backing, GuestRam};

const MIB: u64 = 1 << 20;
const MEMORY_MIB: u64 = 64;
const HEADER: usize = 64;
const SEGMENT: usize = 56;
/// Program header types.
const LOAD: u32 = 1;
const NOTE: u32 = 4;

#[test]
fn boot() {
    let memory = GuestRam::new(MEMORY_MIB, Backing::Private).unwrap();
    run("boot", 400, |random| {
        random.step();
        let mut end = random.number();
        if let Ok(kernel) = elf::load(&memory, &mut kernel(random)) {
            let entry = match kernel.entry {
                Entry::Pvh(entry) => entry.into(),
                Entry::Linux64(entry) => entry,
            };
            assert!(entry < kernel.end && kernel.end <= MEMORY_MIB * MIB);
            end = kernel.end;
        }
        random.step();
        let length = random.pick(&[0, 1, 4096, 70_000]);
        if let Ok(initrd) = initrd::load(&memory, &mut file(&vec![7; length]), end) {
            assert!(initrd.address.0 >= end);
            assert!(initrd.address.0 + initrd.length <= MEMORY_MIB * MIB);
        }
    });
}

/// A file of these bytes.
fn file(bytes: &[u8]) -> File {
    let memfd = rustix::fs::memfd_create("boot", MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memfd);
    file.write_all(bytes).unwrap();
    file
}

/// A kernel of a few bytes, mostly with something wrong.
pub(super) fn kernel(random: &mut Random) -> File {
    let note = note(random);
    let mut segments = vec![(LOAD, 5, 16 * MIB, b"code".to_vec(), 0x5000)];
    if random.one_in(2) {
        let length = note.len() as u64;
        segments.push((NOTE, 0, 0, note, length));
    }
    for _ in 0..random.below(3) {
        let address = 2 * MIB + random.below(40 * MIB);
        let length = random.pick(&[0, 1, 4096]);
        let content = random.bytes(length);
        segments.push((LOAD, 6, address, content, random.below(64 * MIB)));
    }
    let mut bytes = image(16 * MIB + 1, &segments);
    match random.below(4) {
        0 => {}
        1 => bytes.truncate(random.index(bytes.len())),
        // One field of a header, all of which are aligned.
        2 => {
            let at = 2 * random.index(bytes.len() / 2 - 4);
            let length = random.pick(&[1, 2, 4, 8]);
            let value = random.number().to_le_bytes();
            bytes[at..at + length].copy_from_slice(&value[..length]);
        }
        _ => {
            for _ in 0..random.below(10) {
                let position = random.index(bytes.len());
                bytes[position] = random.next() as u8;
            }
        }
    }
    file(&bytes)
}

/// The note that names the PVH entry, among others, with lengths that may be wrong.
fn note(random: &mut Random) -> Vec<u8> {
    let mut note = Vec::new();
    for _ in 0..=random.below(4) {
        let (name, kind) = random.pick(&[("GNU\0", 3), ("Xen\0", 18), ("Xen\0", 1), ("", 18)]);
        let content = random
            .pick(&[16 * MIB, 16 * MIB + 2, 0, u64::MAX])
            .to_le_bytes();
        let mut lengths = [name.len() as u32, content.len() as u32];
        if random.one_in(4) {
            lengths[random.index(2)] = random.number() as u32;
        }
        note.extend(lengths[0].to_le_bytes());
        note.extend(lengths[1].to_le_bytes());
        note.extend(u32::to_le_bytes(kind));
        note.extend(name.as_bytes());
        note.extend(content);
    }
    note
}

/// Type, flags, physical address, content, bytes in memory.
type Segment = (u32, u32, u64, Vec<u8>, u64);

fn image(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(62u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes.extend((HEADER as u64).to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend((HEADER as u16).to_le_bytes());
    bytes.extend((SEGMENT as u16).to_le_bytes());
    bytes.extend((segments.len() as u16).to_le_bytes());
    bytes.resize(HEADER, 0);
    let mut offset = HEADER + SEGMENT * segments.len();
    for (kind, flags, address, content, memory_size) in segments {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        let length = content.len() as u64;
        for value in [offset as u64, 0, *address, length, *memory_size, 4096] {
            bytes.extend(value.to_le_bytes());
        }
        offset += content.len();
    }
    for (_, _, _, content, _) in segments {
        bytes.extend(content);
    }
    bytes
}
