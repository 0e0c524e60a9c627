//! Random requests, right or with one fault, and what has to come of them. What a seed gives is
//! always the same.

use super::request::{
    FLAG_UNMAP, ID_LENGTH, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZERO_RANGES,
    MAX_ZERO_SECTORS, kind,
};
use crate::virtio::mock_driver::Buffer;

const SECTOR: u64 = 512;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Where the buffers lie in guest memory.
const BUFFERS: std::ops::Range<u64> = 0x10_0000..0xf0_0000;

/// Numbers that look random (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    /// Begins at `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number from 0 to `limit` - 1.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.below(from.len() as u64);
        from.get(usize::try_from(index).unwrap_or(0)).copied()
    }
}

/// What has to come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The device stops.
    Fault,
    /// It is answered with this status, and nothing changes.
    Refused(u8),
    /// This much is read from this offset.
    Read(u64, usize),
    /// This is written at this offset.
    Write(u64, Vec<u8>),
    /// Nothing changes.
    Flushed,
    /// The id is read.
    Identified,
    /// Nobody relies any more on what is in these ranges: offset and length.
    Discarded(Vec<(u64, u64)>),
    /// These ranges are zero.
    Zeroed(Vec<(u64, u64)>),
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoStatus,
    OutsideMemory,
    ShortHeader,
    UnknownKind,
    OddLength,
    BehindEnd,
    Overflow,
    WrongDirection,
    RangesLength,
    TooManyRanges,
    LongRange,
    UnknownFlag,
    IdLength,
}

/// A request as a driver would lay it out.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The chain.
    pub(crate) buffers: Vec<Buffer>,
    /// What the readable buffers hold: address and bytes.
    pub(crate) contents: Vec<(u64, Vec<u8>)>,
    /// What has to come of it.
    pub(crate) expected: Expected,
}

/// A request before it is spread over buffers.
struct Draft {
    kind: u32,
    sector: u64,
    /// Behind the header.
    given: Vec<u8>,
    /// Before the status.
    room: u64,
    expected: Expected,
}

impl Sample {
    /// A request to a disk of this many sectors, 128 or more.
    pub(crate) fn new(dice: &mut Dice, sectors: u64, read_only: bool) -> Self {
        let mut draft = Draft::valid(dice, sectors);
        let fault = match dice.below(2) {
            0 => None,
            _ => dice.pick(faults(draft.kind)),
        };
        if let Some(fault) = fault {
            draft.spoil(fault, dice, sectors);
        }
        if read_only
            && matches!(draft.kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES)
            && draft.expected != Expected::Fault
        {
            draft.expected = Expected::Refused(IO_ERROR);
        }
        draft.lay_out(dice, fault)
    }
}

/// What can be wrong with a request of this kind.
fn faults(kind: u32) -> &'static [Fault] {
    use Fault::*;
    match kind {
        kind::IN | kind::OUT => &[
            NoStatus,
            OutsideMemory,
            ShortHeader,
            UnknownKind,
            OddLength,
            BehindEnd,
            Overflow,
            WrongDirection,
        ],
        kind::DISCARD | kind::WRITE_ZEROES => &[
            NoStatus,
            OutsideMemory,
            ShortHeader,
            UnknownKind,
            BehindEnd,
            Overflow,
            WrongDirection,
            RangesLength,
            TooManyRanges,
            LongRange,
            UnknownFlag,
        ],
        kind::GET_ID => &[NoStatus, ShortHeader, UnknownKind, WrongDirection, IdLength],
        _ => &[NoStatus, ShortHeader, UnknownKind, WrongDirection],
    }
}

impl Draft {
    fn valid(dice: &mut Dice, sectors: u64) -> Self {
        let kinds = [
            kind::IN,
            kind::IN,
            kind::OUT,
            kind::OUT,
            kind::FLUSH,
            kind::GET_ID,
            kind::DISCARD,
            kind::WRITE_ZEROES,
        ];
        let kind = dice.pick(&kinds).unwrap_or(kind::IN);
        let count = dice.below(64);
        let sector = dice.below(sectors - count + 1);
        let (offset, length) = (sector * SECTOR, count * SECTOR);
        let mut draft = Self {
            kind,
            sector,
            given: Vec::new(),
            room: 0,
            expected: Expected::Flushed,
        };
        match kind {
            kind::IN => {
                draft.room = length;
                draft.expected = Expected::Read(offset, length as usize);
            }
            kind::OUT => {
                draft.given = (0..length).map(|_| dice.number() as u8).collect();
                draft.expected = Expected::Write(offset, draft.given.clone());
            }
            kind::GET_ID => {
                draft.room = ID_LENGTH.into();
                draft.expected = Expected::Identified;
            }
            kind::DISCARD => {
                let count = 1 + dice.below(MAX_DISCARD_RANGES.into());
                draft.expected = Expected::Discarded(draft.add_ranges(dice, count, sectors, 0));
            }
            kind::WRITE_ZEROES => {
                let flags = dice.pick(&[0, FLAG_UNMAP]).unwrap_or(0);
                let ranges = draft.add_ranges(dice, MAX_ZERO_RANGES.into(), sectors, flags);
                draft.expected = Expected::Zeroed(ranges);
            }
            _ => {}
        }
        draft
    }

    fn add_ranges(
        &mut self,
        dice: &mut Dice,
        count: u64,
        sectors: u64,
        flags: u32,
    ) -> Vec<(u64, u64)> {
        let range = |_| {
            let length = dice.below(64);
            let sector = dice.below(sectors - length + 1);
            self.add_range(sector, length as u32, flags);
            (sector * SECTOR, length * SECTOR)
        };
        (0..count).map(range).collect()
    }

    fn add_range(&mut self, sector: u64, sectors: u32, flags: u32) {
        self.given.extend(sector.to_le_bytes());
        self.given.extend(sectors.to_le_bytes());
        self.given.extend(flags.to_le_bytes());
    }

    fn has_ranges(&self) -> bool {
        matches!(self.kind, kind::DISCARD | kind::WRITE_ZEROES)
    }

    fn spoil(&mut self, fault: Fault, dice: &mut Dice, sectors: u64) {
        self.expected = Expected::Refused(IO_ERROR);
        match fault {
            Fault::NoStatus | Fault::OutsideMemory => self.expected = Expected::Fault,
            // Done when it is laid out.
            Fault::ShortHeader => {}
            Fault::UnknownKind => {
                self.kind = dice
                    .pick(&[2, 3, 5, 6, 7, 9, 10, 12, 14, 16, 1 << 31, u32::MAX])
                    .unwrap_or(2);
                self.expected = Expected::Refused(UNSUPPORTED);
            }
            Fault::OddLength if self.kind == kind::IN => self.room += 1 + dice.below(511),
            Fault::OddLength => {
                let longer = self.given.len() + 1 + dice.below(511) as usize;
                self.given.resize(longer, 0xee);
            }
            Fault::BehindEnd | Fault::Overflow if self.has_ranges() => {
                self.given.clear();
                let sector = self.bad_sector(fault, dice, sectors);
                self.add_range(sector, 1, 0);
            }
            Fault::BehindEnd | Fault::Overflow => {
                self.sector = self.bad_sector(fault, dice, sectors);
                let length = SECTOR * (1 + dice.below(8));
                if self.kind == kind::IN {
                    self.room = length;
                } else {
                    self.given.resize(length as usize, 0xee);
                }
            }
            Fault::WrongDirection if matches!(self.kind, kind::IN | kind::GET_ID) => {
                self.given.resize(1 + dice.below(1024) as usize, 0xee);
            }
            Fault::WrongDirection => self.room = 1 + dice.below(1024),
            Fault::RangesLength => {
                let wrong = dice.pick(&[0, 1, 15, 17, 31]).unwrap_or(0);
                self.given.resize(wrong, 0);
            }
            Fault::TooManyRanges => {
                self.given.clear();
                let most = match self.kind {
                    kind::DISCARD => MAX_DISCARD_RANGES,
                    _ => MAX_ZERO_RANGES,
                };
                for _ in 0..=most {
                    self.add_range(0, 1, 0);
                }
            }
            Fault::LongRange => {
                self.given.clear();
                let most = match self.kind {
                    kind::DISCARD => MAX_DISCARD_SECTORS,
                    _ => MAX_ZERO_SECTORS,
                };
                self.add_range(0, dice.pick(&[most + 1, u32::MAX]).unwrap_or(u32::MAX), 0);
            }
            Fault::UnknownFlag => {
                self.given.clear();
                let flag = match self.kind {
                    kind::DISCARD => dice.below(32),
                    _ => 1 + dice.below(31),
                };
                self.add_range(0, 1, 1 << flag);
                self.expected = Expected::Refused(UNSUPPORTED);
            }
            Fault::IdLength => {
                self.room = dice.pick(&[0, 1, 19, 21, 512]).unwrap_or(0);
            }
        }
    }

    /// A sector from which not even one can be read.
    fn bad_sector(&self, fault: Fault, dice: &mut Dice, sectors: u64) -> u64 {
        match fault {
            Fault::Overflow => u64::MAX - dice.below(1 << 20),
            _ => sectors + dice.below(1 << 40),
        }
    }

    fn lay_out(self, dice: &mut Dice, fault: Option<Fault>) -> Sample {
        let mut readable = self.kind.to_le_bytes().to_vec();
        readable.extend([0; 4]);
        readable.extend(self.sector.to_le_bytes());
        readable.extend(&self.given);
        if fault == Some(Fault::ShortHeader) {
            readable.truncate(dice.below(16) as usize);
        }
        let writable = match fault {
            Some(Fault::NoStatus) => 0,
            _ => self.room + 1,
        };
        let mut layout = Layout {
            next: BUFFERS.start,
            buffers: Vec::new(),
        };
        let mut contents = Vec::new();
        let mut rest = readable.as_slice();
        while !rest.is_empty() {
            let (address, length) = layout.place(dice, rest.len() as u64, false);
            let (now, later) = rest.split_at(length);
            contents.push((address, now.to_vec()));
            rest = later;
        }
        let mut left = writable;
        while left > 0 {
            left -= layout.place(dice, left, true).1 as u64;
        }
        if layout.buffers.is_empty() {
            // A chain has at least one buffer.
            layout.buffers.push((layout.next, 0, false));
        }
        if fault == Some(Fault::OutsideMemory)
            && let Some(last) = layout.buffers.last_mut()
        {
            last.0 = u64::MAX - dice.below(1 << 44);
        }
        Sample {
            buffers: layout.buffers,
            contents,
            expected: self.expected,
        }
    }
}

/// Puts buffers one behind the other, with gaps.
struct Layout {
    next: u64,
    buffers: Vec<Buffer>,
}

impl Layout {
    /// A buffer of at most `wanted` bytes.
    fn place(&mut self, dice: &mut Dice, wanted: u64, writable: bool) -> (u64, usize) {
        // A few pieces, sometimes of no length; the last takes what is left.
        let length = match self.buffers.len() {
            0..20 => match dice.below(4) {
                0 => wanted,
                1 => dice.below(wanted.min(20) + 1),
                _ => dice.below(wanted + 1),
            },
            _ => wanted,
        };
        let address = self.next + dice.below(64);
        self.next = address + length;
        self.buffers.push((address, length as u32, writable));
        (address, length as usize)
    }
}
