//! A guest that is a program of a few KiB in ring 0: no kernel, only acts that a test has chosen.
//!
//! `ring/guest.s` plays [`Act`]s from its own memory. An act that ends in an exception is no end: the
//! guest counts it and goes on with the next. When all are played, the guest halts with its interrupts
//! off, which is the end of the list but not of the machine.

mod image;

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;

use crate::machine::TestMachine;
use crate::wait::eventually;

/// What the guest writes when all acts are played.
const END: &str = "\ne\n";

/// Something that a guest does, for each number of a range.
#[derive(Debug, Clone)]
pub struct Act {
    kind: Kind,
    first: u64,
    count: u64,
    stride: u64,
    second: u64,
    third: u64,
    code: Vec<u8>,
}

/// What is done, in the order of the table in `guest.s`.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Kind {
    Run,
    ReadRegister,
    WriteRegister,
    SetRegister,
    In8,
    In16,
    In32,
    Out8,
    Out16,
    Out32,
    InMany8,
    InMany32,
    OutMany8,
    OutMany32,
    Load8,
    Load16,
    Load32,
    Load64,
    Load128,
    Store8,
    Store16,
    Store32,
    Store64,
    Store128,
    Copy,
    Identify,
    CallHost,
    CallHostAmd,
    LeaveLongMode,
}

/// How wide an access is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    W1,
    /// Two bytes.
    W2,
    /// Four bytes.
    W4,
    /// Eight bytes; ports have no such access, and take four.
    W8,
    /// Sixteen bytes; the same.
    W16,
}

impl Width {
    /// All that memory has.
    pub const ALL: [Self; 5] = [Self::W1, Self::W2, Self::W4, Self::W8, Self::W16];
    /// All that ports have.
    pub const OF_PORTS: [Self; 3] = [Self::W1, Self::W2, Self::W4];
}

impl Act {
    fn new(kind: Kind, numbers: Range<u64>, second: u64, third: u64) -> Self {
        Self {
            kind,
            first: numbers.start,
            count: numbers.end.saturating_sub(numbers.start),
            stride: 1,
            second,
            third,
            code: Vec::new(),
        }
    }

    /// Counts in steps of `stride` through the same range.
    #[must_use]
    pub fn step_by(mut self, stride: u64) -> Self {
        self.count = self.count.div_ceil(stride);
        self.stride = stride;
        self
    }

    /// Executes these bytes, `times` times, with the number of the time in `rdi`. They may use all
    /// registers, and return by themselves.
    #[must_use]
    pub fn run(code: &[u8], times: u64) -> Self {
        let mut act = Self::new(Kind::Run, 0..times, 0, 0);
        act.code = code.to_vec();
        // ret
        act.code.push(0xc3);
        act
    }

    /// Reads each of these model-specific registers.
    #[must_use]
    pub fn read_registers(registers: Range<u32>) -> Self {
        Self::new(Kind::ReadRegister, wide(&registers), 0, 0)
    }

    /// Writes `value` to each of these model-specific registers.
    #[must_use]
    pub fn write_registers(registers: Range<u32>, value: u64) -> Self {
        Self::new(Kind::WriteRegister, wide(&registers), value, 0)
    }

    /// Writes each of these values to one model-specific register.
    #[must_use]
    pub fn set_register(register: u32, values: Range<u64>) -> Self {
        Self::new(Kind::SetRegister, values, 0, register.into())
    }

    /// Reads each of these ports.
    #[must_use]
    pub fn read_ports(ports: Range<u32>, width: Width) -> Self {
        let kind = match width {
            Width::W1 => Kind::In8,
            Width::W2 => Kind::In16,
            _ => Kind::In32,
        };
        Self::new(kind, wide(&ports), 0, 0)
    }

    /// Writes `value` to each of these ports.
    #[must_use]
    pub fn write_ports(ports: Range<u32>, width: Width, value: u32) -> Self {
        let kind = match width {
            Width::W1 => Kind::Out8,
            Width::W2 => Kind::Out16,
            _ => Kind::Out32,
        };
        Self::new(kind, wide(&ports), value.into(), 0)
    }

    /// Reads `count` times from each port to memory at `address`, in one instruction.
    #[must_use]
    pub fn read_ports_often(ports: Range<u32>, width: Width, count: u32, address: u64) -> Self {
        let kind = if width == Width::W1 {
            Kind::InMany8
        } else {
            Kind::InMany32
        };
        Self::new(kind, wide(&ports), count.into(), address)
    }

    /// Writes `count` times to each port from memory at `address`, in one instruction.
    #[must_use]
    pub fn write_ports_often(ports: Range<u32>, width: Width, count: u32, address: u64) -> Self {
        let kind = if width == Width::W1 {
            Kind::OutMany8
        } else {
            Kind::OutMany32
        };
        Self::new(kind, wide(&ports), count.into(), address)
    }

    /// Reads memory at each of these physical addresses.
    #[must_use]
    pub fn load(addresses: Range<u64>, width: Width) -> Self {
        let kind = match width {
            Width::W1 => Kind::Load8,
            Width::W2 => Kind::Load16,
            Width::W4 => Kind::Load32,
            Width::W8 => Kind::Load64,
            Width::W16 => Kind::Load128,
        };
        Self::new(kind, addresses, 0, 0)
    }

    /// Writes `value` to memory at each of these physical addresses.
    #[must_use]
    pub fn store(addresses: Range<u64>, width: Width, value: u64) -> Self {
        let kind = match width {
            Width::W1 => Kind::Store8,
            Width::W2 => Kind::Store16,
            Width::W4 => Kind::Store32,
            Width::W8 => Kind::Store64,
            Width::W16 => Kind::Store128,
        };
        Self::new(kind, addresses, value, 0)
    }

    /// Copies `bytes` bytes from one physical address to another, in one instruction.
    #[must_use]
    pub fn copy(from: u64, to: u64, bytes: u64) -> Self {
        Self::new(Kind::Copy, to..to + 1, bytes, from)
    }

    /// Asks CPUID for each of these leaves.
    #[must_use]
    pub fn identify(leaves: Range<u32>, index: u32) -> Self {
        Self::new(Kind::Identify, wide(&leaves), index.into(), 0)
    }

    /// Makes each of these hypercalls, by both instructions for it, with `value` as all arguments.
    #[must_use]
    pub fn call_host(numbers: Range<u32>, value: u64) -> [Self; 2] {
        let act = |kind| Self::new(kind, wide(&numbers), value, 0);
        [act(Kind::CallHost), act(Kind::CallHostAmd)]
    }

    /// Turns off paging and then protection, says so, and loops for ever.
    #[must_use]
    pub fn leave_long_mode() -> Self {
        Self::new(Kind::LeaveLongMode, 0..1, 0, 0)
    }
}

fn wide(range: &Range<u32>) -> Range<u64> {
    range.start.into()..range.end.into()
}

/// How an act went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Went {
    /// How often it ended in an exception.
    pub exceptions: u64,
    /// Which that was, the last time.
    pub vector: Option<u8>,
    /// What it found, the last time that it did not.
    pub value: u64,
    /// Interrupts that the guest has taken up to then.
    pub interrupts: u64,
}

/// A guest that does this and nothing else.
///
/// # Panics
/// Panics when there is no room for it in /tmp, or it is too long for its place in memory.
#[must_use]
#[track_caller]
pub fn guest(acts: &[Act]) -> File {
    let mut file = tempfile::tempfile().expect("there is room in /tmp");
    file.write_all(&image::kernel(acts))
        .and_then(|()| file.rewind())
        .expect("there is room in /tmp");
    file
}

/// Waits until a guest has played all of its acts, and says how they went.
///
/// # Panics
/// Panics when it does not come to the end.
#[track_caller]
pub fn played(machine: &TestMachine) -> Vec<Went> {
    eventually("all acts are played", || {
        machine.console().contains(END) || machine.has_ended()
    });
    let went = so_far(machine);
    assert!(!machine.has_ended(), "{:?} after {went:x?}", machine.exit());
    went
}

/// How those acts went that a guest has played so far.
#[must_use]
pub fn so_far(machine: &TestMachine) -> Vec<Went> {
    machine.console().lines().filter_map(line).collect()
}

/// What the guest writes after each act.
fn line(line: &str) -> Option<Went> {
    // What an act itself has written to the console may stand before it.
    let (_, numbers) = line.rsplit_once("r ")?;
    let mut numbers = numbers
        .split(' ')
        .map(|number| u64::from_str_radix(number, 16).ok());
    let mut next = || numbers.next().flatten();
    Some(Went {
        exceptions: next()?,
        vector: u8::try_from(next()?).ok(),
        value: next()?,
        interrupts: next()?,
    })
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod tests;
