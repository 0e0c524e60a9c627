//! The MP table (Intel MultiProcessor Specification 1.4), by which a kernel without ACPI learns of
//! its CPUs.
//!
//! It mentions no IOAPIC, although KVM has one: nothing would be connected to it but the serial
//! port, which has the 8259 that KVM has as well, and the kernel reads and writes each of its 24
//! pins several times. Measured: 594 exits of a start.

use vm_memory::{Bytes, GuestMemoryError};
use zerocopy::{Immutable, IntoBytes};

use super::MP_TABLE;
use crate::memory::GuestRam;

/// Address of the local APIC of each CPU.
const LAPIC_ADDRESS: u32 = 0xfee0_0000;
/// Version of KVM's local APICs as their registers say.
const APIC_VERSION: u8 = 0x14;

/// Floating pointer structure.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct FloatingPointer {
    signature: [u8; 4],
    table: u32,
    /// In units of 16 bytes.
    length: u8,
    revision: u8,
    checksum: u8,
    features: [u8; 5],
}

/// Header of the configuration table.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: u16,
    revision: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: u32,
    oem_length: u16,
    entries: u16,
    lapic: u32,
    extended_length: u16,
    extended_checksum: u8,
    reserved: u8,
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic_id: u8,
    apic_version: u8,
    flags: u8,
    signature: u32,
    features: u32,
    reserved: [u32; 2],
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Interrupt {
    kind: u8,
    interrupt: u8,
    flags: u16,
    bus: u8,
    source: u8,
    apic: u8,
    pin: u8,
}

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const LOCAL_INTERRUPT: u8 = 4;

const FLAG_ENABLED: u8 = 1;
const FLAG_BOOT_CPU: u8 = 2;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTINT: u8 = 3;
const ALL_APICS: u8 = 0xff;
const ISA_BUS: u8 = 0;

/// Writes the table for `cpus` CPUs with APIC ids from 0 on to [`MP_TABLE`].
///
/// # Errors
/// Fails when guest memory is too small for it.
pub(crate) fn write(memory: &GuestRam, cpus: u8) -> Result<(), GuestMemoryError> {
    memory.write_slice(&build(cpus), MP_TABLE)
}

/// The floating pointer and the table behind it.
fn build(cpus: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for apic_id in 0..cpus {
        let boot = if apic_id == 0 { FLAG_BOOT_CPU } else { 0 };
        let processor = Processor {
            kind: PROCESSOR,
            apic_id,
            apic_version: APIC_VERSION,
            flags: FLAG_ENABLED | boot,
            // Family 6 with an APIC; the kernel asks CPUID for the rest.
            signature: 0x600,
            features: 0x201,
            reserved: [0; 2],
        };
        add(processor.as_bytes());
    }
    let bus = Bus {
        kind: BUS,
        id: ISA_BUS,
        name: *b"ISA   ",
    };
    add(bus.as_bytes());
    for (pin, interrupt) in [(0, INTERRUPT_EXTINT), (1, INTERRUPT_NMI)] {
        let interrupt = Interrupt {
            kind: LOCAL_INTERRUPT,
            interrupt,
            flags: 0,
            bus: ISA_BUS,
            source: 0,
            apic: if pin == 0 { 0 } else { ALL_APICS },
            pin,
        };
        add(interrupt.as_bytes());
    }

    let mut header = Header {
        signature: *b"PCMP",
        length: (size_of::<Header>() + entries.len()) as u16,
        revision: 4,
        checksum: 0,
        oem: *b"CAISSON ",
        product: *b"CAISSON VMM ",
        oem_table: 0,
        oem_length: 0,
        entries: count,
        lapic: LAPIC_ADDRESS,
        extended_length: 0,
        extended_checksum: 0,
        reserved: 0,
    };
    header.checksum = checksum(&[header.as_bytes(), &entries].concat());
    let mut pointer = FloatingPointer {
        signature: *b"_MP_",
        table: MP_TABLE.0 as u32 + size_of::<FloatingPointer>() as u32,
        length: 1,
        revision: 4,
        checksum: 0,
        features: [0; 5],
    };
    pointer.checksum = checksum(pointer.as_bytes());
    [pointer.as_bytes(), header.as_bytes(), &entries].concat()
}

/// The byte that makes the sum of `bytes` zero when added to it.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
#[path = "mptable_test.rs"]
mod tests;
