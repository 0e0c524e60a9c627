//! The guest's memory and its queues.

use std::fs::File;
use std::ops::Range;

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use vhost_fs::vhost_user::VhostUserBackendReqHandlerMut;
use vhost_fs::vhost_user::message::{VhostUserMemoryRegion, VhostUserVringAddrFlags};
use virtiofsd::server::Server;
use vm_memory_fs::{Bytes, GuestAddress};

use super::super::{Device, FEATURES};
use super::Random;
use crate::private_roots::PrivateRoots;
use crate::ring::{GuestRam, RingError};

const MEMORY: u64 = 1 << 19;
const QUEUE_SIZE: u16 = 16;
/// Where the parts of a queue are, from its base on.
const QUEUE: u64 = 0x4000;
const DRIVER: u64 = 0x400;
const DEVICE: u64 = 0x800;
const TABLE: u64 = 0x1000;
/// Where requests and answers are.
const BUFFERS: Range<u64> = 0x10000..MEMORY;
/// The VMM has the guest's memory somewhere else.
const IN_VMM: u64 = 0x7000_0000_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What memory is filled with that the device may write to, and that around it.
const UNTOUCHED: u8 = 0xa5;
const AROUND: u64 = 16;

/// A device, set up as the VMM does it, and its guest.
pub(super) struct Driver {
    device: Device,
    memory: GuestRam,
    next: [u16; 2],
    /// The index of each used ring, unless the guest may have had something written there.
    used: [Option<u16>; 2],
}

#[derive(Debug, Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

/// What became of a chain.
pub(super) enum Outcome {
    /// It is in the used ring, and this is what was written.
    Used(Vec<u8>),
    /// It was none, and the device went on.
    Ignored,
}

impl Driver {
    pub(super) fn new(file_system: PrivateRoots) -> Self {
        let mut device = Device::new(Server::new(file_system)).unwrap();
        let memory = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, MEMORY).unwrap();
        device.set_owner().unwrap();
        device.set_features(FEATURES).unwrap();
        let region = VhostUserMemoryRegion::new(0, MEMORY, IN_VMM, 0);
        let memory = vec![File::from(memory)];
        device.set_mem_table(&[region], memory).unwrap();
        for index in 0..2 {
            let base = IN_VMM + u64::from(index) * QUEUE;
            let flags = VhostUserVringAddrFlags::empty();
            device.set_vring_num(index, QUEUE_SIZE.into()).unwrap();
            device
                .set_vring_addr(index, flags, base, base + DEVICE, base + DRIVER, 0)
                .unwrap();
            device.set_vring_base(index, 0).unwrap();
            let number = index as u8;
            device.set_vring_call(number, Some(event())).unwrap();
            device.set_vring_kick(number, Some(event())).unwrap();
            device.set_vring_enable(index, true).unwrap();
        }
        let memory = device.memory.clone();
        Self {
            device,
            memory,
            next: [0; 2],
            used: [Some(0); 2],
        }
    }

    /// Puts a request into a queue, with room for so many bytes of an answer, and lets the device
    /// serve it. With `broken`, something about the chain is not as it should be.
    pub(super) fn exchange(
        &mut self,
        random: &mut Random,
        (queue, broken): (usize, bool),
        request: &[u8],
        room: usize,
    ) -> Result<Outcome, RingError> {
        let base = queue as u64 * QUEUE;
        let (readable, writable) = self.place(random, request, room);
        let mut chain = chain(&readable, &writable);
        if broken {
            damage(random, &mut chain);
        }
        if random.one_in(4) {
            self.write_chain(base + TABLE, &chain, 0);
            let length = chain.len() as u32 * 16;
            let whole = Descriptor {
                address: base + TABLE,
                length,
                flags: INDIRECT,
                next: 0,
            };
            chain = vec![whole];
            if broken {
                damage(random, &mut chain);
            }
        }
        let first = random.below(u64::from(QUEUE_SIZE) - chain.len() as u64 + 1) as u16;
        self.write_chain(base, &chain, first);
        self.offer(random, (queue, broken), first);
        while self.device.serve_ring(queue)? {}
        if broken {
            // It may name the rings as the place of an answer.
            self.used = [None; 2];
            return Ok(Outcome::Ignored);
        }
        let used = self.read_u16(base + DEVICE + 2);
        let before = used.wrapping_sub(1);
        if let Some(known) = self.used[queue].replace(used) {
            assert_eq!(known, before, "one request, one answer");
        }
        let entry = base + DEVICE + 4 + u64::from(before % QUEUE_SIZE) * 8;
        let [head, written] = [entry, entry + 4].map(|at| self.read_u32(at));
        assert_eq!(head, u32::from(first));
        assert!(written as usize <= room, "{written} bytes in {room}");
        self.check_surroundings(&readable, &writable, request);
        Ok(Outcome::Used(self.answer(&writable, written as usize)))
    }

    /// Makes a chain available.
    fn offer(&mut self, random: &mut Random, (queue, broken): (usize, bool), first: u16) {
        let ring = queue as u64 * QUEUE + DRIVER;
        let next = &mut self.next[queue];
        let slot = ring + 4 + u64::from(*next % QUEUE_SIZE) * 2;
        *next = next.wrapping_add(1);
        let mut head = first;
        if broken && random.one_in(6) {
            head = random.number() as u16;
        }
        if broken && random.one_in(8) {
            *next = next.wrapping_add(random.number() as u16);
        }
        let next = *next;
        self.write_u16(slot, head);
        self.write_u16(ring + 2, next);
        // Interrupt at some index, of which we make nothing.
        self.write_u16(ring + 4 + u64::from(QUEUE_SIZE) * 2, random.next() as u16);
    }

    /// Places in memory for what is read and what is written.
    fn place(
        &self,
        random: &mut Random,
        request: &[u8],
        room: usize,
    ) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let mut free = BUFFERS.start + random.below(64);
        let readable = pieces(random, request.len(), &mut free);
        let mut left = request;
        for piece in &readable {
            let (now, later) = left.split_at((piece.end - piece.start) as usize);
            self.write(piece.start, now);
            left = later;
        }
        free += AROUND;
        let writable = pieces(random, room, &mut free);
        for piece in &writable {
            let length = (piece.end - piece.start + 2 * AROUND) as usize;
            self.write(piece.start - AROUND, &vec![UNTOUCHED; length]);
        }
        assert!(free < BUFFERS.end);
        (readable, writable)
    }

    fn check_surroundings(&self, readable: &[Range<u64>], writable: &[Range<u64>], request: &[u8]) {
        assert_eq!(self.gather(readable), request, "the request has changed");
        for piece in writable {
            for at in [piece.start - AROUND, piece.end] {
                let around = self.read(at, AROUND as usize);
                assert_eq!(around, [UNTOUCHED; AROUND as usize], "beside the answer");
            }
        }
    }

    fn answer(&self, writable: &[Range<u64>], written: usize) -> Vec<u8> {
        let mut answer = self.gather(writable);
        answer.truncate(written);
        answer
    }

    fn gather(&self, pieces: &[Range<u64>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend(self.read(piece.start, (piece.end - piece.start) as usize));
        }
        bytes
    }

    /// Writes descriptors, of which each names the next by its place in the table.
    fn write_chain(&self, table: u64, chain: &[Descriptor], first: u16) {
        for (place, descriptor) in (first..).zip(chain) {
            let mut bytes = descriptor.address.to_le_bytes().to_vec();
            bytes.extend(descriptor.length.to_le_bytes());
            bytes.extend(descriptor.flags.to_le_bytes());
            bytes.extend(descriptor.next.wrapping_add(first).to_le_bytes());
            self.write(table + u64::from(place) * 16, &bytes);
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn write_u16(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    fn read_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    fn read_u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(at, 4).try_into().unwrap())
    }
}

/// Cuts so many bytes into up to four pieces, at the next free places.
fn pieces(random: &mut Random, length: usize, free: &mut u64) -> Vec<Range<u64>> {
    let mut left = length as u64;
    let mut pieces = Vec::new();
    while left > 0 {
        let last = pieces.len() == 3 || random.one_in(2);
        let now = if last { left } else { 1 + random.below(left) };
        let start = *free + AROUND;
        pieces.push(start..start + now);
        *free = start + now + AROUND + random.below(20);
        left -= now;
    }
    pieces
}

fn chain(readable: &[Range<u64>], writable: &[Range<u64>]) -> Vec<Descriptor> {
    let readable = readable.iter().map(|piece| (piece, 0));
    let pieces: Vec<_> = readable
        .chain(writable.iter().map(|piece| (piece, WRITE)))
        .collect();
    let last = pieces.len() - 1;
    let descriptors = (0u16..).zip(pieces).map(|(place, (piece, flags))| {
        let is_last = usize::from(place) == last;
        Descriptor {
            address: piece.start,
            length: (piece.end - piece.start) as u32,
            flags: if is_last { flags } else { flags | NEXT },
            next: place + 1,
        }
    });
    descriptors.collect()
}

/// Changes one field of one descriptor, perhaps to what it was.
fn damage(random: &mut Random, chain: &mut [Descriptor]) {
    let which = random.index(chain.len());
    let descriptor = &mut chain[which];
    match random.below(5) {
        0 => descriptor.address = random.number(),
        1 => descriptor.address = MEMORY - random.below(64),
        2 => descriptor.length = random.number() as u32,
        3 => descriptor.flags ^= 1 << random.below(4),
        _ => descriptor.next = random.below(32) as u16,
    }
}

fn event() -> File {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    rustix::event::eventfd(0, flags).unwrap().into()
}
