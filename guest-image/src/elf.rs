//! The few facts about an ELF file that decide whether it can be a guest kernel: its machine, its
//! PVH entry note, and how much memory its segments take.
//!
//! A user may bring any file as a kernel, so every offset and length is checked.

/// The owner of the note with the PVH entry (Xen's public/elfnote.h).
const NOTE_OWNER: &[u8] = b"Xen\0";
/// The note's type: physical address of the 32-bit entry.
const NOTE_PHYS32_ENTRY: u32 = 18;
pub(crate) const SEGMENT_LOAD: u32 = 1;
pub(crate) const SEGMENT_NOTE: u32 = 4;
pub(crate) const FLAG_EXECUTE: u32 = 1;

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

/// A program header with what it describes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// [`SEGMENT_LOAD`], [`SEGMENT_NOTE`], or something that matters to nobody here.
    pub(crate) kind: u32,
    /// [`FLAG_EXECUTE`] and others.
    pub(crate) flags: u32,
    /// Where the kernel sees it.
    pub(crate) virtual_address: u64,
    /// Where it is put in guest memory.
    pub(crate) address: u64,
    /// Its bytes in the file, of the two kinds above.
    pub(crate) content: &'a [u8],
    /// Bytes it takes in memory, of which those behind the content begin as zeros.
    pub(crate) memory_size: u64,
}

/// Reads the headers of `file`, the whole of an ELF file.
///
/// # Errors
/// Fails if it is not a whole ELF file for x86-64.
pub fn read(file: &[u8]) -> Result<Kernel, ElfError> {
    let mut kernel = Kernel {
        pvh_entry: None,
        loaded_from_file: 0,
        loaded_in_memory: 0,
    };
    for segment in segments(file)? {
        match segment.kind {
            SEGMENT_LOAD => {
                let (in_file, in_memory) =
                    (&mut kernel.loaded_from_file, &mut kernel.loaded_in_memory);
                *in_file = in_file.saturating_add(segment.content.len() as u64);
                *in_memory = in_memory.saturating_add(segment.memory_size);
            }
            SEGMENT_NOTE if kernel.pvh_entry.is_none() => {
                kernel.pvh_entry = pvh_entry(segment.content);
            }
            _ => {}
        }
    }
    Ok(kernel)
}

/// The program headers of `file`.
///
/// # Errors
/// Fails if it is not a whole ELF file for x86-64.
pub(crate) fn segments(file: &[u8]) -> Result<Vec<Segment<'_>>, ElfError> {
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

    (0..count)
        .map(|index| {
            let at = table.saturating_add(index * entry_size);
            let what = "a program header";
            let word =
                |offset| field(file, at.saturating_add(offset), what).map(u32::from_le_bytes);
            let long =
                |offset| field(file, at.saturating_add(offset), what).map(u64::from_le_bytes);
            let kind = word(0)?;
            let used = kind == SEGMENT_LOAD || kind == SEGMENT_NOTE;
            Ok(Segment {
                kind,
                flags: word(4)?,
                virtual_address: long(16)?,
                address: long(24)?,
                content: match used {
                    true => slice(file, long(8)?, long(32)?, "a segment")?,
                    false => &[],
                },
                memory_size: long(40)?,
            })
        })
        .collect()
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

pub(crate) fn field<const SIZE: usize>(
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
