//! The kernel: an uncompressed x86-64 ELF file, entered at its 64-bit entry or by its PVH note.
//!
//! The 64-bit entry comes first, because behind the other one Linux looks for Xen at each of 256
//! places of CPUID, and every look is an exit.
//!
//! The headers are checked here against the file and against guest memory, so that what is wrong
//! can be said in one sentence; linux-loader then does the loading.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use linux_loader::loader::{Elf, KernelLoader, PvhBootCapability};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Entry, HIGH_MEMORY};
use crate::memory::{GuestRam, HUGE_PAGE};

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Where it begins to run.
    pub(crate) entry: Entry,
    /// First address behind it, uninitialised data included.
    pub(crate) end: u64,
}

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// The file cannot be read.
    #[error("cannot read the kernel: {0}")]
    Read(io::Error),
    /// It is something else.
    #[error(
        "the kernel is not an ELF file: it begins with {0:02x?}. A bzImage must be unpacked to \
         its vmlinux first"
    )]
    NotElf([u8; 4]),
    /// It is for another machine.
    #[error(
        "the kernel is not for this machine: class {class}, data {data}, machine {machine}, where \
         64-bit little-endian x86-64 is class 2, data 1, machine 62"
    )]
    WrongMachine {
        /// 1 for 32-bit, 2 for 64-bit.
        class: u8,
        /// 1 for little-endian.
        data: u8,
        /// Number of the machine.
        machine: u16,
    },
    /// It is not an executable with a program header table of the usual form.
    #[error(
        "the kernel's ELF header makes no sense: type {kind}, {count} program headers of \
         {entry_size} bytes at {offset:#x}"
    )]
    BadHeader {
        /// 2 for an executable.
        kind: u16,
        /// Number of program headers.
        count: u16,
        /// Bytes of each.
        entry_size: u16,
        /// Where they are in the file.
        offset: u64,
    },
    /// The file ends before what its headers describe.
    #[error("the kernel file is truncated: it has {length} bytes and refers to {needed}")]
    Truncated {
        /// Bytes of the file.
        length: u64,
        /// Bytes it should have at least.
        needed: u64,
    },
    /// A segment has more bytes in the file than in memory, or its end cannot be addressed.
    #[error(
        "segment {index} of the kernel makes no sense: {file_size:#x} bytes in the file, \
         {memory_size:#x} in memory at {address:#x}"
    )]
    BadSegment {
        /// Index of the program header.
        index: usize,
        /// Bytes in the file.
        file_size: u64,
        /// Bytes in memory.
        memory_size: u64,
        /// Physical address.
        address: u64,
    },
    /// A segment lies where the tables for the kernel are.
    #[error("segment {index} of the kernel lies at {address:#x}, below {HIGH_MEMORY:#x}")]
    TooLow {
        /// Index of the program header.
        index: usize,
        /// Physical address.
        address: u64,
    },
    /// A segment does not fit into guest memory.
    #[error(
        "the kernel needs memory up to {needed:#x}, the guest has {memory:#x}: give it more memory"
    )]
    TooLarge {
        /// First address behind the segment.
        needed: u64,
        /// First address behind guest memory.
        memory: u64,
    },
    /// Nothing is to be loaded.
    #[error("the kernel file has no segment to load")]
    Empty,
    /// There is no way in.
    #[error(
        "the kernel has no PVH note, and its entry {0:#x} is not the physical address of code in \
         it: build it with CONFIG_PVH"
    )]
    NoEntry(u64),
    /// The PVH entry is outside the kernel.
    #[error("the PVH note of the kernel names {0:#x}, which is not an address of code in it")]
    BadPvhEntry(u64),
    /// Loading failed all the same.
    #[error("cannot load the kernel: {0}")]
    Load(#[from] linux_loader::loader::Error),
}

/// ELF-64 file header (System V ABI, chapter 4).
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    class: u8,
    data: u8,
    ident: [u8; 10],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    segments: U64,
    sections: U64,
    flags: U32,
    header_size: U16,
    segment_size: U16,
    segment_count: U16,
    section_size: U16,
    section_count: U16,
    section_names: U16,
}

/// ELF-64 program header.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    kind: U32,
    flags: U32,
    offset: U64,
    virtual_address: U64,
    address: U64,
    file_size: U64,
    memory_size: U64,
    alignment: U64,
}

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const FLAG_EXECUTE: u32 = 1;
/// So many bytes of a huge page must be the kernel's for it to get one.
const WORTH_A_HUGE_PAGE: u64 = 256 << 10;
/// More program headers than any kernel has.
const MAX_SEGMENTS: u16 = 64;

/// Loads the kernel in `file` to the physical addresses it asks for.
///
/// # Errors
/// See [`KernelError`].
pub(crate) fn load(memory: &GuestRam, file: &mut File) -> Result<Kernel, KernelError> {
    let length = file.metadata().map_err(KernelError::Read)?.len();
    let header: Header = read_at(file, 0, length)?;
    check_header(&header)?;
    let segments = (0..u64::from(header.segment_count.get()))
        .map(|index| {
            let offset = header
                .segments
                .get()
                .saturating_add(index * size_of::<Segment>() as u64);
            read_at::<Segment>(file, offset, length)
        })
        .collect::<Result<Vec<_>, _>>()?;
    for (index, segment) in segments.iter().enumerate() {
        check_segment(index, segment, length, memory.low_bytes())?;
    }
    let end = segments
        .iter()
        .filter(|segment| segment.kind.get() == LOAD)
        .map(|segment| segment.address.get() + segment.memory_size.get())
        .max()
        .ok_or(KernelError::Empty)?;
    let is_code = |address: u64| {
        segments.iter().any(|segment| {
            segment.kind.get() == LOAD
                && segment.flags.get() & FLAG_EXECUTE != 0
                && address >= segment.address.get()
                && address - segment.address.get() < segment.file_size.get()
        })
    };

    for page in sparse_pages(&segments) {
        memory.use_small_pages(&page);
    }
    let loaded = Elf::load(&**memory, None, file, None)?;
    let pvh = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => match u32::try_from(address.0) {
            Ok(entry) if is_code(address.0) => Some(entry),
            _ => return Err(KernelError::BadPvhEntry(address.0)),
        },
        PvhBootCapability::PvhEntryNotPresent | PvhBootCapability::PvhEntryIgnored => None,
    };
    let entry = header.entry.get();
    let entry = match pvh {
        _ if is_code(entry) => Entry::Linux64(entry),
        Some(entry) => Entry::Pvh(entry),
        None => return Err(KernelError::NoEntry(entry)),
    };
    Ok(Kernel { entry, end })
}

fn check_header(header: &Header) -> Result<(), KernelError> {
    if header.magic != *b"\x7fELF" {
        return Err(KernelError::NotElf(header.magic));
    }
    let machine = header.machine.get();
    if (header.class, header.data, machine) != (CLASS_64, LITTLE_ENDIAN, X86_64) {
        return Err(KernelError::WrongMachine {
            class: header.class,
            data: header.data,
            machine,
        });
    }
    let usual = header.kind.get() == EXECUTABLE
        && usize::from(header.segment_size.get()) == size_of::<Segment>()
        && header.segment_count.get() <= MAX_SEGMENTS
        && header.segments.get() >= size_of::<Header>() as u64;
    if !usual {
        return Err(KernelError::BadHeader {
            kind: header.kind.get(),
            count: header.segment_count.get(),
            entry_size: header.segment_size.get(),
            offset: header.segments.get(),
        });
    }
    Ok(())
}

/// Checks that a segment is in the file and, if it is to be loaded, has its place in memory.
fn check_segment(
    index: usize,
    segment: &Segment,
    length: u64,
    memory: u64,
) -> Result<(), KernelError> {
    let kind = segment.kind.get();
    if kind != LOAD && kind != NOTE {
        return Ok(());
    }
    let needed = segment.offset.get().saturating_add(segment.file_size.get());
    if needed > length {
        return Err(KernelError::Truncated { length, needed });
    }
    if kind == NOTE {
        return Ok(());
    }
    let address = segment.address.get();
    let end = address.checked_add(segment.memory_size.get());
    let (Some(end), true) = (end, segment.file_size <= segment.memory_size) else {
        return Err(KernelError::BadSegment {
            index,
            file_size: segment.file_size.get(),
            memory_size: segment.memory_size.get(),
            address,
        });
    };
    if address < HIGH_MEMORY {
        return Err(KernelError::TooLow { index, address });
    }
    if end > memory {
        return Err(KernelError::TooLarge {
            needed: end,
            memory,
        });
    }
    Ok(())
}

/// The huge pages within the kernel of which it uses little. It takes the rest of them for its own,
/// so that nobody else uses it either: Linux has its entry code, 6 KiB, in one.
fn sparse_pages(segments: &[Segment]) -> Vec<Range<u64>> {
    let page = HUGE_PAGE as u64;
    let loaded: Vec<Range<u64>> = segments
        .iter()
        .filter(|segment| segment.kind.get() == LOAD)
        .map(|segment| {
            let start = segment.address.get();
            start..start.saturating_add(segment.memory_size.get())
        })
        .collect();
    let start = loaded.iter().map(|range| range.start).min().unwrap_or(0);
    let end = loaded.iter().map(|range| range.end).max().unwrap_or(0);
    // What lies in front of the first whole page and behind the last is not the kernel's alone.
    (start.div_ceil(page)..end / page)
        .map(|index| index * page..(index + 1) * page)
        .filter(|page| {
            let used = loaded.iter().map(|range| {
                let end = range.end.min(page.end);
                end.saturating_sub(range.start.max(page.start))
            });
            used.sum::<u64>() < WORTH_A_HUGE_PAGE
        })
        .collect()
}

/// Reads a structure at `offset` of a file of `length` bytes.
fn read_at<T: FromZeros + FromBytes + IntoBytes + Immutable>(
    file: &File,
    offset: u64,
    length: u64,
) -> Result<T, KernelError> {
    let mut value = T::new_zeroed();
    let needed = offset.saturating_add(size_of::<T>() as u64);
    match file.read_exact_at(value.as_mut_bytes(), offset) {
        Ok(()) => Ok(value),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            // What little there is tells a text file from a cut-off kernel.
            match value.as_bytes().first_chunk() {
                Some(magic) if offset == 0 && magic != b"\x7fELF" => {
                    Err(KernelError::NotElf(*magic))
                }
                _ => Err(KernelError::Truncated { length, needed }),
            }
        }
        Err(error) => Err(KernelError::Read(error)),
    }
}

#[cfg(test)]
#[path = "elf_test.rs"]
mod tests;
