use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use caisson_control::{DiskConfig, Limits};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::engine::plain::Plain;
use super::engine::ring::Ring;
use super::engine::{Engine, EngineMaker};
use super::request::kind;
use super::{Block, BlockError};
use crate::memory::GuestRam;
use crate::virtio::device::{Device, DeviceFault, Interest, Running, Stopped};
use crate::virtio::mock_driver::{Buffer, MockDriver, activation, guest_ram};

#[path = "block_test/answers.rs"]
mod answers;
#[path = "block_test/limits.rs"]
mod limits;
#[path = "block_test/parts.rs"]
mod parts;
#[path = "block_test/random.rs"]
mod random;
#[path = "block_test/stopping.rs"]
mod stopping;
#[path = "block_test/test_engines.rs"]
mod test_engines;
#[path = "block_test/turns.rs"]
mod turns;

/// Where requests are laid out in guest memory: header, ranges or data to write, data to read.
const HEADER: u64 = 0x10_0000;
const GIVEN: u64 = 0x20_0000;
const ROOM: u64 = 0x40_0000;
const STATUS: u64 = 0x10_1000;

const SECTORS: u64 = 2048;
const FLUSH: u64 = 1 << 9;

fn plain(disk: &Arc<super::disk::Disk>) -> Box<dyn Engine> {
    Box::new(Plain::new(disk))
}

fn ring(disk: &Arc<super::disk::Disk>) -> Box<dyn Engine> {
    Box::new(Ring::new(disk).unwrap())
}

/// The engines that run here.
fn engines() -> Vec<EngineMaker> {
    let disk = super::disk::Disk::new(contents(512).into(), false, false).unwrap();
    let mut engines = vec![plain as EngineMaker];
    match Ring::new(&Arc::new(disk)) {
        Ok(_) => engines.push(ring),
        Err(error) => eprintln!("skipped with io_uring: the kernel refuses it: {error}"),
    }
    engines
}

/// A file with a byte pattern that differs from sector to sector.
fn contents(bytes: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    let pattern: Vec<u8> = (0..bytes).map(|at| (at / 512 * 7 + at) as u8).collect();
    file.write_all(&pattern).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn config() -> DiskConfig {
    DiskConfig {
        id: "disk-of-a-test".to_owned(),
        read_only: false,
        direct: false,
        queues: 1,
        limits: Limits::default(),
        parts: Vec::new(),
    }
}

/// A device, its drivers and an io thread that is called by hand.
struct Bench {
    file: File,
    memory: Arc<GuestRam>,
    drivers: Vec<MockDriver>,
    device: Option<Box<dyn Running>>,
    features: u64,
    /// Answers that nobody has asked for yet, by queue and head.
    answers: BTreeMap<(usize, u16), u32>,
}

impl Bench {
    fn new(engine: EngineMaker) -> Self {
        Self::with(engine, &config(), contents(SECTORS * 512), FLUSH)
    }

    fn with(engine: EngineMaker, config: &DiskConfig, file: File, features: u64) -> Self {
        let device =
            Block::with_engine(config, vec![file.try_clone().unwrap().into()], engine).unwrap();
        let memory = guest_ram();
        let drivers = (0..u64::from(config.queues))
            .map(|index| MockDriver::new(&memory, 0x1000 + index * 0x4000, 256))
            .collect();
        let mut bench = Self {
            file,
            memory,
            drivers,
            device: None,
            features,
            answers: BTreeMap::new(),
        };
        bench.activate(Box::new(device), &[]);
        bench
    }

    /// Activates the device with its queues at these positions.
    fn activate(
        &mut self,
        device: Box<dyn Device>,
        positions: &[crate::virtio::device::QueuePosition],
    ) {
        let queue = |(index, driver): (usize, &MockDriver)| {
            let mut queue = driver.queue(index).unwrap();
            if let Some(position) = positions.iter().find(|position| position.index == index) {
                queue.set_position(*position);
            }
            Some(queue)
        };
        let queues = self.drivers.iter().enumerate().map(queue).collect();
        let activated = device.activate(activation(self.features, &self.memory, queues));
        self.device = Some(activated.map_err(|(_, fault)| fault).unwrap());
    }

    fn device(&mut self) -> &mut Box<dyn Running> {
        self.device.as_mut().unwrap()
    }

    fn stop(&mut self) -> Stopped {
        self.device.take().unwrap().stop()
    }

    /// Makes a chain available and notifies the device.
    fn add(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let head = self.drivers[queue].add(buffers);
        self.drivers[queue].kick.write(1).unwrap();
        head
    }

    /// Adds a request at the `place`th place in guest memory.
    fn ask(
        &mut self,
        queue: usize,
        place: u64,
        (kind, sector): (u32, u64),
        given: &[u8],
        room: u32,
    ) -> u16 {
        let at = place * 0x1_0000;
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let driver = &self.drivers[queue];
        driver.write(HEADER + place * 16, &header);
        driver.write(GIVEN + at, given);
        driver.write(STATUS + place, &[0xff]);
        let mut buffers = vec![(HEADER + place * 16, 16, false)];
        if !given.is_empty() {
            buffers.push((GIVEN + at, given.len() as u32, false));
        }
        if room > 0 {
            buffers.push((ROOM + at, room, true));
        }
        buffers.push((STATUS + place, 1, true));
        self.add(queue, &buffers)
    }

    fn status(&self, place: u64) -> u8 {
        self.drivers[0].read::<1>(STATUS + place)[0]
    }

    /// One request from start to end: status, bytes written.
    fn request(&mut self, what: (u32, u64), given: &[u8], room: u32) -> (u8, u32) {
        let head = self.ask(0, 0, what, given, room);
        let written = self.answer(0, head).unwrap();
        (self.status(0), written)
    }

    /// Runs the device until the driver of `queue` gets the chain from `head` back.
    fn answer(&mut self, queue: usize, head: u16) -> Result<u32, DeviceFault> {
        loop {
            self.collect();
            if let Some(written) = self.answers.remove(&(queue, head)) {
                return Ok(written);
            }
            self.turn()?;
        }
    }

    /// Takes what is on the used rings.
    fn collect(&mut self) {
        for (index, driver) in self.drivers.iter_mut().enumerate() {
            while let Some((head, written)) = driver.take_used() {
                let earlier = self.answers.insert((index, head), written);
                assert_eq!(earlier, None, "head {head} came back twice");
            }
        }
    }

    /// One turn of the io thread: waits for something and has it served.
    fn turn(&mut self) -> Result<(), DeviceFault> {
        let watches = self.device().watches();
        let kicks: Vec<_> = self.drivers.iter().map(|d| Arc::clone(&d.kick)).collect();
        let kicked = kicks.iter().map(AsRawFd::as_raw_fd);
        let fds: Vec<RawFd> = kicked.chain(watches.iter().map(|watch| watch.fd)).collect();
        let epoll = Epoll::new().unwrap();
        for (index, fd) in fds.iter().enumerate() {
            let event = EpollEvent::new(EventSet::IN, index as u64);
            epoll.ctl(ControlOperation::Add, *fd, event).unwrap();
        }
        let mut events = vec![EpollEvent::default(); fds.len()];
        let count = loop {
            match epoll.wait(60_000, &mut events) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                count => break count.unwrap(),
            }
        };
        assert_ne!(count, 0, "nothing happens any more");
        let is_ready = |index| {
            events[..count]
                .iter()
                .any(|event| event.data() == index as u64)
        };
        let ready: Vec<bool> = (0..fds.len()).map(is_ready).collect();
        for (index, kick) in kicks.iter().enumerate() {
            if ready[index] && kick.read().is_ok() {
                self.device().on_queue(index)?;
            }
        }
        for (watch, ready) in watches.iter().zip(&ready[kicks.len()..]) {
            if *ready {
                self.device().on_ready(watch.token)?;
            }
        }
        Ok(())
    }

    /// What is on the disk from `sector` on.
    fn on_disk(&self, sector: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.file.read_exact_at(&mut data, sector * 512).unwrap();
        data
    }

    fn in_memory(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory
            .read_slice(&mut data, GuestAddress(address))
            .unwrap();
        data
    }
}
