use super::*;

/// An ELF file with one LOAD and one NOTE segment.
pub(crate) fn elf_with_notes(notes: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 2;
    for (kind, offset, file_size, memory_size) in [
        (SEGMENT_LOAD, 0_u64, 64_u64, 4096_u64),
        (SEGMENT_NOTE, 176, notes.len() as u64, notes.len() as u64),
    ] {
        let mut header = [0; 56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&file_size.to_le_bytes());
        header[40..48].copy_from_slice(&memory_size.to_le_bytes());
        file.extend_from_slice(&header);
    }
    file.extend_from_slice(notes);
    file
}

pub(crate) fn note(owner: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [owner.len() as u32, value.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    for part in [owner, value] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

#[test]
fn the_entry_is_found_behind_other_notes() {
    let notes = [
        note(b"GNU\0", 3, &[7; 20]),
        note(b"Xen\0", 5, b"linux"),
        note(b"Xen\0", 18, &0x0100_0290_u64.to_le_bytes()),
    ]
    .concat();
    let kernel = read(&elf_with_notes(&notes)).unwrap();
    assert_eq!(
        kernel,
        Kernel {
            pvh_entry: Some(0x0100_0290),
            loaded_from_file: 64,
            loaded_in_memory: 4096
        }
    );
}

#[test]
fn a_kernel_without_the_entry_is_told_apart() {
    let notes = [note(b"GNU\0", 18, &[0; 8]), note(b"Xen\0", 17, &[0; 8])].concat();
    assert_eq!(read(&elf_with_notes(&notes)).unwrap().pvh_entry, None);
}

#[test]
fn notes_with_impossible_lengths_end_the_search() {
    let huge = [0xff_u8; 12];
    assert_eq!(read(&elf_with_notes(&huge)).unwrap().pvh_entry, None);
    let empty_forever = [0_u8; 24];
    assert_eq!(
        read(&elf_with_notes(&empty_forever)).unwrap().pvh_entry,
        None
    );
}

#[test]
fn other_files_are_named_for_what_they_are() {
    assert_eq!(read(b"MZ and so on"), Err(ElfError::NotElf));
    assert_eq!(read(b""), Err(ElfError::NotElf));
    let mut arm = elf_with_notes(&[]);
    arm[18] = 183;
    assert_eq!(
        read(&arm),
        Err(ElfError::NotX86 {
            class: 2,
            machine: 183
        })
    );
}

#[test]
fn no_file_cut_off_anywhere_is_taken_for_whole() {
    let file = elf_with_notes(&note(b"Xen\0", 18, &[1; 8]));
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_err(), "{length} bytes");
    }
    assert!(read(&file).is_ok());
}
