//! What a guest does that drives a device itself, past its kernel.
//!
//! The host writes the driver, the guest only plays it: every malformation stands in the test that
//! is about it, and the numbers in it are those that the device gets to see.

use serde::{Deserialize, Serialize};

/// Bytes of the [arena](crate::Request::Arena).
pub const ARENA_BYTES: u32 = 2 << 20;

/// One act. Numbers are little-endian, widths are in bytes: 1, 2, 4, or 8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Take the function in a slot from the kernel's driver, or give it back.
    Bind {
        /// Its slot.
        slot: u8,
        /// Whether the driver has it afterwards.
        bound: bool,
    },
    /// Write to the configuration space of a function.
    Configure {
        /// Its slot.
        slot: u8,
        /// Where.
        offset: u8,
        /// The register's width; the kernel splits what is not aligned.
        width: u8,
        /// What.
        value: u64,
    },
    /// Read from the configuration space of a function. Answers the value.
    Inspect {
        /// Its slot.
        slot: u8,
        /// Where.
        offset: u8,
        /// The register's width.
        width: u8,
    },
    /// Write where the BAR of a function was when the guest's kernel found it.
    Write {
        /// Its slot.
        slot: u8,
        /// Where in the BAR.
        offset: u16,
        /// How much at once.
        width: u8,
        /// What.
        value: u64,
    },
    /// Read where the BAR of a function was. Answers the value.
    Read {
        /// Its slot.
        slot: u8,
        /// Where in the BAR.
        offset: u16,
        /// How much at once.
        width: u8,
    },
    /// Read there until one of the bits of `mask` is set, or with no mask until nothing is.
    Until {
        /// The slot.
        slot: u8,
        /// Where in the BAR, one byte.
        offset: u16,
        /// Which bits.
        mask: u8,
    },
    /// Write to the arena.
    Put {
        /// Where.
        at: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// Read from the arena. Answers the value.
    Get {
        /// Where.
        at: u32,
        /// How much.
        width: u8,
    },
    /// Add to a number in the arena.
    Add {
        /// Where.
        at: u32,
        /// How wide it is.
        width: u8,
        /// How much.
        by: u64,
    },
    /// Wait until two numbers of 16 bits in the arena are the same.
    Equal {
        /// Where the one is.
        at: u32,
        /// Where the other is.
        other: u32,
    },
    /// Write to an I/O port.
    Out {
        /// Which.
        port: u16,
        /// 1, 2 or 4.
        width: u8,
        /// What.
        value: u32,
    },
    /// Read from an I/O port. Answers the value.
    In {
        /// Which.
        port: u16,
        /// 1, 2 or 4.
        width: u8,
    },
    /// Do something again and again.
    Repeat {
        /// How often.
        times: u32,
        /// What.
        steps: Vec<Step>,
    },
    /// Connect to the host as at the start, so that it knows that the guest can be asked again.
    Hello,
}
