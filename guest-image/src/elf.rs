//! The few facts about an ELF file that decide whether it can be a guest kernel: its machine, its
//! PVH entry note, and how much memory its segments take.
//!
//! A user may bring any file as a kernel, so every offset and length is checked.

/// The owner of the note with the PVH entry (Xen's public/elfnote.h).
const NOTE_OWNER: &[u8] = b"Xen\0";
/// The note's type: physical address of the 32-bit entry.
const NOTE_PHYS32_ENTRY: u32 = 18;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;

/// What was read from the file's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Physical address of the PVH entry, if there is one.
    pub pvh_entry: Option<u32>,
    /// Bytes that a loader copies or maps from the file.
    pub loaded_from_file: u64,
    /// Bytes of guest memory that the kernel takes, with what starts as zeros.
    pub loaded_in_memory: u64,
}

/// Why a file is no ELF kernel for x86-64.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// It does not start as an ELF file.
    #[error("not an ELF file: give the uncompressed vmlinux, not bzImage or vmlinuz")]
    NotElf,
    /// It is an ELF file for something else.
    #[error(
        "an ELF file, but not for x86-64 (class {class}, machine {machine}): build the kernel with ARCH=x86_64"
    )]
    NotX86 {
        /// 1 for 32 bits, 2 for 64 (ELF gABI, EI_CLASS).
        class: u8,
        /// The machine's number (ELF gABI, e_machine); 62 is x86-64.
        machine: u16,
    },
    /// A header points outside the file.
    #[error(
        "the file is cut off or damaged: {what} at offset {offset} lies outside its {size} bytes"
    )]
    Damaged {
        /// What should be there.
        what: &'static str,
        /// Where it should be.
        offset: u64,
        /// Size of the file.
        size: usize,
    },
}

/// Reads the headers of `file`, the whole of an ELF file.
///
/// # Errors
/// Fails if it is not a whole ELF file for x86-64.
pub fn read(file: &[u8]) -> Result<Kernel, ElfError> {
    if file.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    let class = *field::<1>(file, 4, "the ELF header")?.first().unwrap_or(&0);
    let machine = u16::from_le_bytes(field(file, 18, "the ELF header")?);
    if class != 2 || machine != 62 {
        return Err(ElfError::NotX86 { class, machine });
    }
    let table = u64::from_le_bytes(field(file, 32, "the ELF header")?);
    let entry_size = u64::from(u16::from_le_bytes(field(file, 54, "the ELF header")?));
    let count = u64::from(u16::from_le_bytes(field(file, 56, "the ELF header")?));

    let mut kernel = Kernel {
        pvh_entry: None,
        loaded_from_file: 0,
        loaded_in_memory: 0,
    };
    for index in 0..count {
        let at = table.saturating_add(index * entry_size);
        let what = "a program header";
        let kind = u32::from_le_bytes(field(file, at, what)?);
        let offset = u64::from_le_bytes(field(file, at.saturating_add(8), what)?);
        let file_size = u64::from_le_bytes(field(file, at.saturating_add(32), what)?);
        let memory_size = u64::from_le_bytes(field(file, at.saturating_add(40), what)?);
        if kind == SEGMENT_LOAD || kind == SEGMENT_NOTE {
            let content = slice(file, offset, file_size, "a segment")?;
            if kind == SEGMENT_LOAD {
                kernel.loaded_from_file = kernel.loaded_from_file.saturating_add(file_size);
                kernel.loaded_in_memory = kernel.loaded_in_memory.saturating_add(memory_size);
            } else if kernel.pvh_entry.is_none() {
                kernel.pvh_entry = pvh_entry(content);
            }
        }
    }
    Ok(kernel)
}

/// Looks for the PVH entry among notes. Stops at a note that is cut off.
fn pvh_entry(mut notes: &[u8]) -> Option<u32> {
    loop {
        let (header, rest) = notes.split_first_chunk::<12>()?;
        let word = |at: usize| {
            let bytes = header.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let (owner_size, value_size) = (
            usize::try_from(word(0)?).ok()?,
            usize::try_from(word(4)?).ok()?,
        );
        // Owner and value are each padded to four bytes; the last value may not be.
        let (owner, rest) = rest.split_at_checked(owner_size)?;
        let rest = rest.get(owner_size.next_multiple_of(4) - owner_size..)?;
        let (value, rest) = rest.split_at_checked(value_size)?;
        if owner == NOTE_OWNER && word(8) == Some(NOTE_PHYS32_ENTRY) {
            // Linux writes the address in 8 bytes on x86-64; the entry itself is below 4 GiB.
            return Some(u32::from_le_bytes(*value.first_chunk()?));
        }
        notes = rest.get(value_size.next_multiple_of(4) - value_size..)?;
    }
}

fn field<const SIZE: usize>(
    file: &[u8],
    offset: u64,
    what: &'static str,
) -> Result<[u8; SIZE], ElfError> {
    let bytes = slice(file, offset, SIZE as u64, what)?;
    bytes.try_into().map_err(|_| damaged(file, offset, what))
}

fn slice<'a>(
    file: &'a [u8],
    offset: u64,
    size: u64,
    what: &'static str,
) -> Result<&'a [u8], ElfError> {
    let range = usize::try_from(offset)
        .ok()
        .and_then(|start| Some(start..start.checked_add(usize::try_from(size).ok()?)?));
    range
        .and_then(|range| file.get(range))
        .ok_or_else(|| damaged(file, offset, what))
}

fn damaged(file: &[u8], offset: u64, what: &'static str) -> ElfError {
    ElfError::Damaged {
        what,
        offset,
        size: file.len(),
    }
}

#[cfg(test)]
#[path = "elf_test.rs"]
pub(crate) mod tests;
