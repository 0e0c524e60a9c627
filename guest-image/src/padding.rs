//! A kernel without its padding.
//!
//! The linker puts the kernel's parts on boundaries of 2 MiB, and fills the space between them: a
//! quarter of what a loader would copy into each virtual machine, and 2 MiB of memory in which
//! there are two pages of code. What is left out here is not touched by a loader, and begins
//! as zeros in the guest, where nobody looks.

use crate::elf::{self, ElfError, FLAG_EXECUTE, SEGMENT_LOAD, SEGMENT_NOTE, Segment};

/// The instruction between functions, INT3.
const BREAKPOINT: u8 = 0xcc;
/// Padding is left out by pages, which are aligned in memory as they are here.
const PAGE: usize = 4096;
/// Bytes of padding that are worth a segment of their own, if there are not too many of them.
const WORTH: usize = 64 << 10;

/// More parts than any loader need expect (ours takes as many).
const MOST_PARTS: usize = 64;

/// Of the words in which notes are counted.
const NOTE_ALIGNMENT: u64 = 4;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// Writes `kernel`, an ELF file for x86-64, once more: only what is loaded of it, and of that
/// nothing that is padding.
///
/// # Errors
/// Fails if it is not a whole ELF file for x86-64.
pub(crate) fn leave_out(kernel: &[u8]) -> Result<Vec<u8>, ElfError> {
    let mut segments = elf::segments(kernel)?;
    segments.retain(|segment| segment.kind == SEGMENT_LOAD || segment.kind == SEGMENT_NOTE);
    let divided = |worth| -> Vec<Segment<'_>> {
        let segments = segments.iter();
        segments
            .flat_map(|segment| divide(segment, worth))
            .collect()
    };
    let mut worth = WORTH;
    let mut parts = divided(worth);
    while parts.len() > MOST_PARTS && worth < kernel.len() {
        worth *= 2;
        parts = divided(worth);
    }
    let mut file = header(kernel, parts.len())?;
    let mut offset = (HEADER + parts.len() * PROGRAM_HEADER).next_multiple_of(PAGE);
    for part in &parts {
        program_header(&mut file, part, offset);
        offset = (offset + part.content.len()).next_multiple_of(PAGE);
    }
    for part in &parts {
        file.resize(file.len().next_multiple_of(PAGE), 0);
        file.extend_from_slice(part.content);
    }
    Ok(file)
}

/// The parts of a segment between its padding. Memory behind the content, which begins as zeros,
/// stays with the last of them.
fn divide<'a>(segment: &Segment<'a>, worth: usize) -> Vec<Segment<'a>> {
    if segment.kind != SEGMENT_LOAD {
        return vec![*segment];
    }
    let executable = segment.flags & FLAG_EXECUTE != 0;
    let mut parts = Vec::new();
    let mut start = 0;
    for gap in gaps(segment.content, executable, worth) {
        if gap.start > start {
            parts.push(part(segment, start, gap.start, (gap.start - start) as u64));
        }
        start = gap.end;
    }
    let rest = segment.memory_size.saturating_sub(start as u64);
    if rest > 0 {
        parts.push(part(segment, start, segment.content.len(), rest));
    }
    parts
}

fn part<'a>(whole: &Segment<'a>, start: usize, end: usize, memory_size: u64) -> Segment<'a> {
    Segment {
        virtual_address: whole.virtual_address.wrapping_add(start as u64),
        address: whole.address.wrapping_add(start as u64),
        content: whole.content.get(start..end).unwrap_or_default(),
        memory_size,
        ..*whole
    }
}

/// The runs of pages that are worth leaving out.
fn gaps(content: &[u8], executable: bool, worth: usize) -> Vec<std::ops::Range<usize>> {
    let mut gaps: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, page) in content.chunks_exact(PAGE).enumerate() {
        let first = page.first().copied();
        let filler = first == Some(0) || (executable && first == Some(BREAKPOINT));
        if !filler || page.iter().any(|byte| Some(*byte) != first) {
            continue;
        }
        let start = index * PAGE;
        match gaps.last_mut() {
            Some(last) if last.end == start => last.end = start + PAGE,
            _ => gaps.push(start..start + PAGE),
        }
    }
    gaps.retain(|gap| gap.len() >= worth);
    gaps
}

/// The kernel's ELF header with so many program headers right behind it, and no sections.
fn header(kernel: &[u8], parts: usize) -> Result<Vec<u8>, ElfError> {
    let original = elf::field::<HEADER>(kernel, 0, "the ELF header")?;
    // e_phoff, e_shoff, e_phentsize, e_phnum, e_shnum, e_shstrndx (ELF gABI, chapter 4).
    let count = u16::try_from(parts).unwrap_or(u16::MAX);
    let mut header = original.to_vec();
    for (at, bytes) in [
        (32, &(HEADER as u64).to_le_bytes()[..]),
        (40, &[0; 8]),
        (54, &(PROGRAM_HEADER as u16).to_le_bytes()),
        (56, &count.to_le_bytes()),
        (60, &[0; 4]),
    ] {
        if let Some(field) = header.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    Ok(header)
}

fn program_header(file: &mut Vec<u8>, part: &Segment<'_>, offset: usize) {
    // By that of notes QEMU looks for the next one (ELF gABI, chapter 5, "Note Section").
    let alignment = match part.kind {
        SEGMENT_NOTE => NOTE_ALIGNMENT,
        _ => PAGE as u64,
    };
    for word in [part.kind, part.flags] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for long in [
        offset as u64,
        part.virtual_address,
        part.address,
        part.content.len() as u64,
        part.memory_size,
        alignment,
    ] {
        file.extend_from_slice(&long.to_le_bytes());
    }
}

#[cfg(test)]
#[path = "padding_test.rs"]
mod tests;
