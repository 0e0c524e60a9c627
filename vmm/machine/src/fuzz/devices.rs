//! The devices: what their drivers ask for, and what happens on the host meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use caisson_control::{DiskConfig, DiskPart, Limits, Rate};

use super::Random;
use super::driver::in_arena;
use super::queues::{Subject, fuzz};
use crate::console::{Console, Tail};
use crate::devices::balloon::{Balloon, BalloonEvents};
use crate::devices::block::Block;
use crate::devices::console::VirtioConsole;
use crate::devices::memory::{BLOCK, HotplugSlots, Memory};
use crate::devices::net::fuzz::between_sockets;
use crate::devices::rng::Rng;
use crate::devices::vsock::{Vsock, VsockEvents, fuzz::packet};

#[test]
fn rng() {
    fuzz("rng", |_, _| Subject::new(Rng::new()));
}

#[test]
fn vsock() {
    fuzz("vsock", |_, _| {
        let events = Arc::new(Dropped(Mutex::default()));
        let (device, connector) = Vsock::new(3, Arc::clone(&events) as _).unwrap();
        Subject::new(device)
            .with_requests(|random, queue| match queue {
                1 => packet(random),
                _ => Vec::new(),
            })
            .with_host(move |random| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let mut kept = events.0.lock().unwrap();
                if random.one_in(2) {
                    connector.connect(1, random.below(4) as u32, theirs);
                    kept.push(ours);
                }
                if kept.len() > 8 {
                    kept.clear();
                }
            })
    });
}

/// Keeps a few of the host's ends of connections, and reads from none of them.
struct Dropped(Mutex<Vec<UnixStream>>);

impl VsockEvents for Dropped {
    fn guest_connected(&self, _: u32, stream: UnixStream) {
        self.0.lock().unwrap().push(stream);
    }
    fn connect_finished(&self, _: u64, _: bool) {}
}

/// Sectors of the disk.
const SECTORS: u64 = 2048;

#[test]
fn block_of_parts() {
    // One after the other, to the last sector of the requests' range.
    let parts = [
        (0, 300 * 512),
        (320 * 512, 512),
        (328 * 512, (SECTORS - 328 - 8) * 512),
    ];
    let parts = parts.map(|(offset, bytes)| DiskPart { offset, bytes });
    fuzz("block-of-parts", move |random, _| {
        let files: Vec<_> = parts
            .iter()
            .map(|part| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(part.bytes).unwrap();
                file
            })
            .collect();
        let other = files[random.index(3)].try_clone().unwrap();
        let config = DiskConfig {
            id: "fuzzed".to_owned(),
            read_only: true,
            direct: false,
            queues: random.pick(&[1, 1, 2]),
            limits: limits(random),
            parts: parts.to_vec(),
        };
        let files = files.into_iter().map(Into::into).collect();
        Subject::new(Block::new(&config, files).unwrap())
            .with_requests(|random, _| block_request(random))
            .with_host(move |random| resize(&other, random))
    });
}

#[test]
fn block() {
    fuzz("block", |random, _| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SECTORS * 512).unwrap();
        let config = DiskConfig {
            id: "fuzzed".to_owned(),
            read_only: random.one_in(4),
            direct: false,
            queues: random.pick(&[1, 1, 2]),
            limits: limits(random),
            parts: Vec::new(),
        };
        let other = file.try_clone().unwrap();
        Subject::new(Block::new(&config, vec![file.into()]).unwrap())
            .with_requests(|random, _| block_request(random))
            // The file shrinks and grows behind the device's back.
            .with_host(move |random| resize(&other, random))
    });
}

/// A header, and what may follow it.
fn block_request(random: &mut Random) -> Vec<u8> {
    let sector = match random.below(4) {
        0 => random.number(),
        1 => SECTORS - random.below(4),
        _ => random.below(SECTORS),
    };
    let mut request = (random.pick(&[0, 1, 4, 8, 11, 13, 13, 99]) as u32)
        .to_le_bytes()
        .to_vec();
    request.extend([0; 4]);
    request.extend(sector.to_le_bytes());
    match random.below(3) {
        0 => {}
        // Ranges to discard.
        1 => {
            for _ in 0..random.below(3) {
                request.extend(random.below(SECTORS).to_le_bytes());
                request.extend((random.number() as u32).to_le_bytes());
                request.extend((random.below(3) as u32).to_le_bytes());
            }
        }
        _ => {
            let length = random.pick(&[512, 1024, 4096, 511, 1]);
            request.extend(random.bytes(length));
        }
    }
    request
}

fn resize(file: &File, random: &mut Random) {
    let sectors = random.pick(&[SECTORS, SECTORS, SECTORS / 2, 0]);
    file.set_len(sectors * 512).unwrap();
}

/// None, or such that a round comes to wait.
fn limits(random: &mut Random) -> Limits {
    let rate = |random: &mut Random| {
        random.one_in(4).then(|| Rate {
            per_second: random.pick(&[100_000, 10_000_000]),
            burst: random.pick(&[1, 1000]),
        })
    };
    Limits {
        bytes: rate(random),
        operations: rate(random),
    }
}

#[test]
fn net() {
    fuzz("net", |random, _| {
        let (device, hosts) = between_sockets(random.pick(&[1, 1, 2]), limits(random));
        let queues = hosts.len() * 2;
        assert!(queues <= 4);
        Subject::new(device)
            .with_requests(|random, queue| match queue {
                // Commands, where there is one pair; packets otherwise.
                2 if random.one_in(2) => {
                    let pairs = random.below(4) as u16;
                    let mut command = vec![random.pick(&[4, 5, 0, 99]), random.below(2) as u8];
                    command.extend(pairs.to_le_bytes());
                    command
                }
                _ => {
                    let length = random.pick(&[0, 1, 12, 26, 60, 1500, 9000]);
                    random.bytes(length)
                }
            })
            .with_host(move |random| {
                let host = &hosts[random.index(hosts.len())];
                let length = random.pick(&[12, 26, 1500, 60_000]);
                // A full socket takes nothing, an empty one gives nothing.
                let _ = host.send(&random.bytes(length));
                let _ = host.recv(&mut [0; 70_000]);
            })
    });
}

/// Hears of pressure and does nothing.
struct Deaf;

impl BalloonEvents for Deaf {
    fn memory_pressure(&self, _: u32) {}
}

#[test]
fn balloon() {
    fuzz("balloon", |_, _| {
        let (device, control) = Balloon::new(Arc::new(Deaf)).unwrap();
        Subject::new(device)
            .with_requests(|random, queue| match queue {
                // Any pages but those of the rings, of which the driver still knows what is in them.
                0 | 1 => (0..random.below(40))
                    .flat_map(|_| {
                        let page = match random.below(4) {
                            0 => random.number() as u32,
                            _ => 0x1000 + random.below(0x1000) as u32,
                        };
                        let page = if in_arena(page) { u32::MAX } else { page };
                        page.to_le_bytes()
                    })
                    .collect(),
                _ => Vec::new(),
            })
            .with_host(move |random| control.set_target(random.number() as u32))
    });
}

/// Gives slots to nobody, and refuses now and then.
#[derive(Default)]
struct Slots(Mutex<(u32, Vec<u32>)>);

impl HotplugSlots for Slots {
    fn insert(&self, index: u32) -> io::Result<()> {
        let mut slots = self.0.lock().unwrap();
        slots.0 += 1;
        if slots.0.is_multiple_of(7) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        assert!(!slots.1.contains(&index), "slot {index} is there already");
        slots.1.push(index);
        Ok(())
    }

    fn remove(&self, index: u32) {
        let mut slots = self.0.lock().unwrap();
        let position = slots.1.iter().position(|slot| *slot == index);
        slots
            .1
            .remove(position.expect("only what is there is removed"));
    }
}

#[test]
fn memory() {
    fuzz("memory", |_, memory| {
        let made = Memory::new(memory, Arc::new(Slots::default())).unwrap();
        let (device, control) = made.expect("there is a region");
        Subject::new(device)
            .with_requests(|random, _| {
                let mut request = (random.pick(&[0, 0, 1, 1, 2, 3, 9]) as u16)
                    .to_le_bytes()
                    .to_vec();
                request.extend([0; 6]);
                let address = match random.below(4) {
                    0 => random.number(),
                    _ => REGION + random.below(130) * BLOCK,
                };
                request.extend(address.to_le_bytes());
                request.extend((random.pick(&[1, 2, 64, 128, 0, 0xffff]) as u16).to_le_bytes());
                request.extend([0; 6]);
                request
            })
            .with_host(move |random| {
                control.set_requested(random.below(140) * BLOCK);
                assert!(control.plugged() <= control.most());
            })
    });
}

/// Where the region to plug begins in the memory of the targets.
const REGION: u64 = 6 << 30;

#[test]
fn console() {
    fuzz("console", |_, _| {
        let (reader, writer) = io::pipe().unwrap();
        let console = Console::new(
            Some(File::from(std::os::fd::OwnedFd::from(writer))),
            Tail::default(),
        );
        // Nobody reads.
        let kept = reader;
        Subject::new(VirtioConsole::new(console.unwrap())).with_host(move |_| {
            let _ = &kept;
        })
    });
}
