//! The driver's side of a queue: honest, or with one thing wrong, or beyond all rules.

use std::collections::HashMap;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::Random;
use crate::memory::{Backing, GuestRam, HIGH_RAM_START, HOLE_START};
use crate::virtio::mock_driver::{INDIRECT, NEXT, WRITE};
use crate::virtio::queue::QueueSettings;

/// Where rings and buffers are: at the edges of both regions of memory.
const ARENAS: [u64; 4] = [
    0,
    HOLE_START - ARENA,
    HIGH_RAM_START,
    HIGH_RAM_START + HIGH_RAM - ARENA,
];
/// Bytes of an arena: the first half for rings, and in the first one for their indirect tables; the
/// second half for buffers.
const ARENA: u64 = 0x10_0000;
const HALF: u64 = ARENA / 2;
/// Room for the rings of a queue of [`MAX_SIZE`], or for a short indirect table of each of its
/// descriptors.
const STRETCH: u64 = 0x2000;
/// Small, so that rings wrap around often.
const MAX_SIZE: u16 = 128;
const TABLE: u64 = STRETCH / MAX_SIZE as u64;
/// No buffer of an honest driver is longer.
const LONGEST: u64 = 0x5000;
const HIGH_RAM: u64 = 2 << 20;
const HOTPLUG_MIB: u64 = 256;

/// Guest memory with a hole in it and a region to plug, of which little is ever touched. It is made once for all rounds
/// of a target, because its addresses are never given back.
pub(super) fn memory() -> Arc<GuestRam> {
    let mib = (HOLE_START + HIGH_RAM) >> 20;
    Arc::new(GuestRam::with_hotplug(mib, HOTPLUG_MIB, Backing::Private).unwrap())
}

/// As at the beginning, as far as it matters.
pub(super) fn clear(memory: &GuestRam) {
    for arena in ARENAS {
        let zeros = vec![0; ARENA as usize];
        memory.write_slice(&zeros, GuestAddress(arena)).unwrap();
    }
}

/// Whether a page of the guest, by its number, is in an arena: who gives it away loses rings.
pub(super) fn in_arena(page: u32) -> bool {
    let address = u64::from(page) << 12;
    ARENAS
        .iter()
        .any(|arena| (*arena..arena + ARENA).contains(&address))
}

/// Where a buffer may be.
pub(super) fn buffer(random: &mut Random) -> u64 {
    let arena = random.pick(&ARENAS);
    arena + HALF + random.below(HALF - LONGEST)
}

/// Where no buffer should be: across an edge, on top of the rings, or anywhere.
fn odd_buffer(random: &mut Random) -> u64 {
    let edge = random.pick(&[
        HOLE_START,
        HIGH_RAM_START,
        HIGH_RAM_START + HIGH_RAM,
        u64::MAX,
    ]);
    match random.below(3) {
        0 => edge.wrapping_sub(random.below(16)),
        1 => random.pick(&ARENAS) + random.below(HALF),
        _ => random.number(),
    }
}

/// One queue.
pub(super) struct Ring {
    memory: Arc<GuestRam>,
    pub(super) settings: QueueSettings,
    next_available: u16,
    next_used: u16,
    free: Vec<u16>,
    /// Descriptors and writable bytes of what was made available, by head.
    chains: HashMap<u16, (Vec<u16>, u64)>,
    /// Whether the rules were broken, so that nothing can be expected any more.
    messed: bool,
    tables: u64,
}

impl Ring {
    /// A queue at a place that fits, empty. Those with different numbers below 64 do not overlap.
    pub(super) fn new(
        random: &mut Random,
        memory: &Arc<GuestRam>,
        number: usize,
        max_size: u16,
        event_idx: bool,
    ) -> Self {
        let size = (MAX_SIZE >> random.below(8)).min(max_size);
        let tables = number as u64 * STRETCH % HALF;
        let desc = random.pick(&ARENAS[1..]) + tables;
        let driver = desc + 16 * u64::from(size);
        let device = (driver + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let settings = QueueSettings {
            size,
            desc,
            driver,
            device,
            event_idx,
        };
        let ring = Self {
            memory: Arc::clone(memory),
            settings,
            next_available: 0,
            next_used: 0,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            messed: false,
            tables,
        };
        ring.write(desc, &vec![0; STRETCH as usize]);
        ring
    }

    /// Makes a chain available that brings `request` and has room for an answer. One in `malice`
    /// chains has something wrong; none if that is 0. False if it needs more descriptors than there
    /// are.
    pub(super) fn offer(&mut self, random: &mut Random, request: &[u8], malice: u64) -> bool {
        let mut buffers = self.readable(random, request);
        for _ in 0..random.below(4) {
            let length = random.pick(&[0, 1, 8, 44, 512, 4096, 20_000]);
            buffers.push((buffer(random), length, WRITE));
        }
        if buffers.is_empty() {
            buffers.push((buffer(random), 64, WRITE));
        }
        if malice > 0 && random.one_in(malice) {
            self.messed = true;
            let position = random.index(buffers.len());
            let wrong = &mut buffers[position];
            match random.below(3) {
                0 => wrong.0 = odd_buffer(random),
                1 => wrong.1 = random.number() as u32,
                _ => wrong.2 ^= 1 << random.below(4),
            }
        }
        let writable = |(_, length, flags): &(u64, u32, u16)| match flags & WRITE {
            0 => 0,
            _ => u64::from(*length),
        };
        let writable = buffers.iter().map(writable).sum();
        if random.one_in(3) && 16 * buffers.len() as u64 <= TABLE {
            self.offer_indirect(&buffers, writable)
        } else {
            self.offer_direct(&buffers, writable)
        }
    }

    /// Buffers with the bytes of `request`, cut anywhere.
    fn readable(&self, random: &mut Random, request: &[u8]) -> Vec<(u64, u32, u16)> {
        let mut buffers = Vec::new();
        let mut rest = request;
        while !rest.is_empty() {
            let length = match random.below(3) {
                0 => 1 + random.index(rest.len()),
                _ => rest.len(),
            };
            let (now, later) = rest.split_at(length);
            let address = buffer(random);
            self.write(address, now);
            buffers.push((address, length as u32, 0));
            rest = later;
        }
        buffers
    }

    fn offer_direct(&mut self, buffers: &[(u64, u32, u16)], writable: u64) -> bool {
        if self.free.len() < buffers.len() {
            return false;
        }
        let indices: Vec<u16> = buffers.iter().filter_map(|_| self.free.pop()).collect();
        for (position, (address, length, flags)) in buffers.iter().enumerate() {
            let next = indices.get(position + 1).copied();
            let flags = flags | next.map_or(0, |_| NEXT);
            let descriptor = (*address, *length, flags, next.unwrap_or(0));
            self.write_descriptor(self.settings.desc, indices[position], descriptor);
        }
        let head = indices[0];
        self.chains.insert(head, (indices, writable));
        self.make_available(head);
        true
    }

    fn offer_indirect(&mut self, buffers: &[(u64, u32, u16)], writable: u64) -> bool {
        let Some(head) = self.free.pop() else {
            return false;
        };
        let table = ARENAS[0] + self.tables + u64::from(head) * TABLE;
        for (position, (address, length, flags)) in (0..).zip(buffers) {
            let last = usize::from(position) + 1 == buffers.len();
            let flags = flags | if last { 0 } else { NEXT };
            self.write_descriptor(table, position, (*address, *length, flags, position + 1));
        }
        let length = 16 * buffers.len() as u32;
        self.write_descriptor(self.settings.desc, head, (table, length, INDIRECT, 0));
        self.chains.insert(head, (vec![head], writable));
        self.make_available(head);
        true
    }

    /// Whether the rules were broken in this queue.
    pub(super) fn is_messed(&self) -> bool {
        self.messed
    }

    /// Expects nothing of this queue any more.
    pub(super) fn give_up(&mut self) {
        self.messed = true;
    }

    /// Writes what no driver would write, where none would.
    pub(super) fn mess(&mut self, random: &mut Random) {
        self.messed = true;
        let QueueSettings { size, desc, .. } = self.settings;
        match random.below(6) {
            0 => {
                let index = random.below(size.into()) as u16;
                let descriptor = (
                    odd_buffer(random),
                    random.number() as u32,
                    random.below(8) as u16,
                    random.number() as u16,
                );
                self.write_descriptor(desc, index, descriptor);
            }
            // A loop, perhaps.
            1 => {
                let index = random.below(size.into()) as u16;
                let next = random.below(size.into()) as u16;
                self.write_descriptor(desc, index, (buffer(random), 16, NEXT, next));
                self.make_available(index);
            }
            2 => self.make_available(random.number() as u16),
            3 => {
                self.next_available = random.number() as u16;
                self.write_available_index();
            }
            // An indirect table of a length that cannot be.
            4 => {
                let index = random.below(size.into()) as u16;
                let length = random.number() as u32;
                let flags = INDIRECT | random.below(2) as u16;
                self.write_descriptor(desc, index, (buffer(random), length, flags, 0));
                self.make_available(index);
            }
            _ => {
                let garbage = random.bytes(16);
                let at = desc + random.below(STRETCH - 16);
                self.write(at, &garbage);
            }
        }
    }

    /// Asks to be interrupted, or not, at any place.
    pub(super) fn write_used_event(&self, random: &mut Random) {
        let at = self.settings.driver + 4 + 2 * u64::from(self.settings.size);
        self.write(at, &(random.number() as u16).to_le_bytes());
    }

    /// Takes back what the device has used; returns how many chains that were.
    pub(super) fn reap(&mut self) -> usize {
        let mut reaped = 0;
        let QueueSettings { size, device, .. } = self.settings;
        let index = u16::from_le_bytes(self.read(device + 2));
        let used = index.wrapping_sub(self.next_used);
        if self.messed && used > size {
            self.next_used = index;
        }
        while self.next_used != index {
            let slot = u64::from(self.next_used % size);
            let entry: [u8; 8] = self.read(device + 4 + 8 * slot);
            let entry = u64::from_le_bytes(entry);
            let (head, written) = ((entry & 0xffff_ffff) as u32, entry >> 32);
            let chain = u16::try_from(head)
                .ok()
                .and_then(|head| self.chains.remove(&head));
            match chain {
                Some((indices, writable)) => {
                    assert!(
                        self.messed || written <= writable,
                        "the device claims {written} bytes in {writable}"
                    );
                    self.free.extend(indices);
                    reaped += 1;
                }
                None => assert!(self.messed, "the device used {head} without being given it"),
            }
            self.next_used = self.next_used.wrapping_add(1);
        }
        reaped
    }

    fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.settings.size);
        self.write(self.settings.driver + 4 + 2 * slot, &head.to_le_bytes());
        self.next_available = self.next_available.wrapping_add(1);
        self.write_available_index();
    }

    fn write_available_index(&self) {
        let index = self.next_available.to_le_bytes();
        self.write(self.settings.driver + 2, &index);
    }

    fn write_descriptor(&self, table: u64, index: u16, descriptor: (u64, u32, u16, u16)) {
        let (address, length, flags, next) = descriptor;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    /// What does not fit into memory is lost, as in a machine.
    fn write(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}
