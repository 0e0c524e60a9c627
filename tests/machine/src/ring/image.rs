//! The guest as a file that the VMM's loader takes for a kernel: the program, its page tables, and the
//! acts.
#![allow(unsafe_code)]

use std::arch::global_asm;

use super::Act;

global_asm!(
    ".pushsection .rodata.caisson_ring_guest, \"a\"",
    include_str!("guest.s"),
    ".popsection"
);

unsafe extern "C" {
    static caisson_ring_guest: u8;
    static caisson_ring_guest_end: u8;
}

/// Where the guest is in memory, and what in it; `guest.s` knows the first and the second.
const START: u64 = 0x100_0000;
const CASE: u64 = START + 0x4000;
const TABLES: u64 = START + 0x8000;
const CODE: u64 = START + 0x2_0000;
const ACTS: u64 = START + 0x4_0000;
/// Where the VMM's own page tables, which map no more than the first GiB, leave off.
const END: u64 = START + 0x10_0000;

const PAGE: usize = 4096;
/// Bytes of an act.
const ACT: usize = 64;

/// Page table entry bits: present, writable; a large page.
const TABLE: u64 = 3;
const LARGE: u64 = TABLE | 1 << 7;
/// Tables of pages of 2 MiB, each for a GiB.
const FINE: u64 = 8;

/// The program.
fn program() -> &'static [u8] {
    let begin = &raw const caisson_ring_guest;
    let end = &raw const caisson_ring_guest_end;
    // SAFETY: both labels stand in one section, the end behind the beginning, with initialised bytes
    // that nobody writes in between.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

/// The file.
pub(super) fn kernel(acts: &[Act]) -> Vec<u8> {
    let mut memory = vec![0; bytes(END)];
    let mut put = |at: u64, bytes: &[u8]| {
        let place = memory.iter_mut().skip(self::bytes(at));
        for (place, byte) in place.zip(bytes) {
            *place = *byte;
        }
    };
    put(START, program());
    let mut code = CODE;
    let mut at = ACTS;
    for act in acts {
        // Code goes where the others have an argument.
        let third = if act.code.is_empty() { act.third } else { code };
        put(code, &act.code);
        code = (code + act.code.len() as u64).next_multiple_of(16);
        let kind = act.kind as u64;
        let numbers = [kind, act.first, act.count, act.stride, act.second, third];
        for (at, number) in (at..).step_by(8).zip(numbers) {
            put(at, &number.to_le_bytes());
        }
        at += ACT as u64;
    }
    assert!(code <= ACTS && at <= END, "too many acts");
    for (at, number) in (CASE..).step_by(8).zip([TABLES, ACTS, acts.len() as u64]) {
        put(at, &number.to_le_bytes());
    }
    for (at, table) in (TABLES..).step_by(PAGE).zip(tables()) {
        for (at, entry) in (at..).step_by(8).zip(table) {
            put(at, &entry.to_le_bytes());
        }
    }
    elf(&memory)
}

/// Page tables that map the first 512 GiB to themselves, and behind them the last that processors with
/// 46 and with 52 bits of an address have, each a GiB.
fn tables() -> Vec<Vec<u64>> {
    let table = |index: u64| (TABLES + index * PAGE as u64) | TABLE;
    let top = vec![table(1), table(2)];
    let large = |index: u64| index << 30 | LARGE;
    let first = (0..512).map(|index| match index {
        0..FINE => table(3 + index),
        _ => large(index),
    });
    let high = vec![large((1 << 16) - 1), large((1 << 22) - 1)];
    let mut tables = vec![top, first.collect(), high];
    let fine = |index: u64| (0..512).map(move |page| ((index << 30) + (page << 21)) | LARGE);
    tables.extend((0..FINE).map(|index| fine(index).collect()));
    tables
}

/// Bytes from the start of the guest to an address.
fn bytes(address: u64) -> usize {
    usize::try_from(address - START).unwrap_or(usize::MAX)
}

/// An ELF file with one segment, which starts at its first byte.
fn elf(memory: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let length = memory.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // An executable for x86-64.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(START.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend([0; 12]);
    file.extend([64, 0, 56, 0, 1, 0]);
    file.resize(64, 0);
    // To be loaded, read and executed.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for value in [HEADERS, 0, START, length, length, 4096] {
        file.extend(value.to_le_bytes());
    }
    file.extend(memory);
    file
}
