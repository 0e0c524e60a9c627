use super::*;
use crate::elf::tests::{elf_with_notes, note};

/// An ELF file with one segment of `content`, `beyond` bytes more in memory, and a PVH note.
fn kernel(flags: u32, content: &[u8], beyond: u64) -> Vec<u8> {
    let mut file = elf_with_notes(&note(b"Xen\0", 18, &[1; 8]));
    let offset = file.len() as u64;
    let size = content.len() as u64;
    file[68..72].copy_from_slice(&flags.to_le_bytes());
    for (at, value) in [
        (72, offset),
        (80, 0xffff_ffff_8100_0000),
        (88, 0x100_0000),
        (96, size),
        (104, size + beyond),
    ] {
        file[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    file.extend_from_slice(content);
    file
}

/// What is in guest memory after loading: address, bytes.
fn loaded(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    elf::segments(file)
        .unwrap()
        .iter()
        .filter(|segment| segment.kind == SEGMENT_LOAD)
        .map(|segment| {
            let mut bytes = segment.content.to_vec();
            bytes.resize(segment.memory_size as usize, 0);
            (segment.address, bytes)
        })
        .collect()
}

#[test]
fn what_fills_up_code_is_left_out_and_the_rest_stays_in_its_place() {
    let content = [vec![0x90; 5000], vec![0xcc; 200 << 10], vec![0xc3; 100]].concat();
    let without = leave_out(&kernel(FLAG_EXECUTE, &content, 0)).unwrap();
    assert!(without.len() < 20_000, "{}", without.len());
    let parts = loaded(&without);
    assert_eq!(parts.len(), 2);
    for (address, bytes) in parts {
        let start = (address - 0x100_0000) as usize;
        assert_eq!(bytes, content[start..start + bytes.len()]);
    }
    let facts = elf::read(&without).unwrap();
    assert_eq!(facts.pvh_entry, Some(0x0101_0101));
    assert_eq!(&without[24..32], &kernel(1, &content, 0)[24..32], "entry");
}

#[test]
fn notes_are_counted_in_words_and_all_else_in_pages() {
    let without = leave_out(&kernel(4, &[1; 100], 0)).unwrap();
    let headers = without[HEADER..].chunks(PROGRAM_HEADER).take(2);
    let alignments: Vec<_> = headers
        .map(|header| (header[0], header[48..56].to_vec()))
        .collect();
    let (words, pages) = (4u64.to_le_bytes().to_vec(), 4096u64.to_le_bytes().to_vec());
    let (load, note) = (SEGMENT_LOAD as u8, SEGMENT_NOTE as u8);
    assert_eq!(alignments, [(load, pages), (note, words)]);
}

#[test]
fn zeros_are_left_out_anywhere_and_breakpoints_in_code_only() {
    let zeros = [vec![1; PAGE], vec![0; WORTH], vec![2; PAGE]].concat();
    assert_eq!(loaded(&leave_out(&kernel(4, &zeros, 0)).unwrap()).len(), 2);
    let data = [vec![1; PAGE], vec![0xcc; WORTH], vec![2; PAGE]].concat();
    assert_eq!(
        loaded(&leave_out(&kernel(4, &data, 0)).unwrap()),
        [(0x100_0000, data)]
    );
}

#[test]
fn a_short_run_stays() {
    let content = [vec![1; PAGE], vec![0; WORTH - PAGE], vec![2; PAGE]].concat();
    let without = leave_out(&kernel(FLAG_EXECUTE, &content, 0)).unwrap();
    assert_eq!(loaded(&without), [(0x100_0000, content)]);
}

#[test]
fn of_many_runs_only_the_largest_are_left_out() {
    let large = [vec![1; PAGE], vec![0; 4 * WORTH]].concat();
    let small = [vec![2; PAGE], vec![0; WORTH]].concat();
    let content = [large.repeat(3), small.repeat(100), vec![3; PAGE]].concat();
    let parts = loaded(&leave_out(&kernel(4, &content, 0)).unwrap());
    assert_eq!(parts.len(), 4);
    for (address, bytes) in parts {
        let start = (address - 0x100_0000) as usize;
        assert_eq!(bytes, content[start..start + bytes.len()]);
    }
}

#[test]
fn memory_behind_the_content_keeps_its_place() {
    let content = [vec![1; PAGE], vec![0; WORTH]].concat();
    let without = leave_out(&kernel(4, &content, 8192)).unwrap();
    let parts = loaded(&without);
    assert_eq!(parts[0], (0x100_0000, vec![1; PAGE]));
    assert_eq!(
        parts[1],
        (0x100_0000 + (PAGE + WORTH) as u64, vec![0; 8192])
    );
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    let file = kernel(FLAG_EXECUTE, &[1; 300], 0);
    for length in 0..file.len() {
        assert!(leave_out(&file[..length]).is_err(), "{length} bytes");
    }
}
