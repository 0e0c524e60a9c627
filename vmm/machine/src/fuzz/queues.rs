//! A device that takes requests from queues, with a driver that may do anything to them.
//!
//! The device is driven as the io thread drives it, but on the thread of the test, so that a seed
//! repeats the round exactly as far as the host's side of the device lets it.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::driver::{Ring, clear, memory};
use super::poll::ready;
use super::{Random, run};
use crate::memory::GuestRam;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{Device, DeviceFault, QueuePosition, Running, Stopped};
use crate::virtio::interrupt::QueueInterrupt;
use crate::virtio::mock_driver::activation;
use crate::virtio::queue::DeviceQueue;

/// Rounds of each target in `cargo test`.
const ROUNDS: u64 = 60;
/// Steps of a round.
const STEPS: u64 = 150;
/// Calls after which a device that has nothing new to do must be idle.
const CALLS: usize = 20_000;

/// A device to be fuzzed.
pub(super) struct Subject {
    device: Box<dyn Device>,
    /// What a driver might ask for by a request on this queue.
    request: fn(&mut Random, usize) -> Vec<u8>,
    /// Does something on the host's side.
    host: Box<dyn FnMut(&mut Random)>,
}

impl Subject {
    /// A device whose requests have no form and which has no host's side.
    pub(super) fn new(device: impl Device + 'static) -> Self {
        Self {
            device: Box::new(device),
            request: |random, _| {
                let length = random.index(200);
                random.bytes(length)
            },
            host: Box::new(|_| {}),
        }
    }

    pub(super) fn with_requests(self, request: fn(&mut Random, usize) -> Vec<u8>) -> Self {
        Self { request, ..self }
    }

    pub(super) fn with_host(self, host: impl FnMut(&mut Random) + 'static) -> Self {
        Self {
            host: Box::new(host),
            ..self
        }
    }
}

/// Plays rounds with the device that `make` makes.
pub(super) fn fuzz(target: &'static str, make: impl Fn(&mut Random, &GuestRam) -> Subject) {
    let memory = memory();
    run(target, ROUNDS, |random| {
        clear(&memory);
        let subject = make(random, &memory);
        let mut round = Round::new(random, &memory, &subject);
        round.activate(random, subject.device, None);
        round.play(random, subject.request, subject.host);
    });
}

/// A device at work, its driver, and what there is between them.
struct Round {
    memory: Arc<GuestRam>,
    queue_sizes: Vec<u16>,
    features: u64,
    /// One in so many things is wrong; nothing if 0.
    malice: u64,
    config: SharedConfig,
    rings: Vec<Ring>,
    kicks: Vec<Arc<EventFd>>,
    /// `None` only while it changes hands.
    device: Option<Box<dyn Running>>,
}

impl Round {
    fn new(random: &mut Random, memory: &Arc<GuestRam>, subject: &Subject) -> Self {
        let queue_sizes = subject.device.queue_sizes().to_vec();
        let kicks = queue_sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK));
        Self {
            memory: Arc::clone(memory),
            features: subject.device.features() & random.next(),
            malice: random.pick(&[0, 0, 40, 8]),
            config: subject.device.config(),
            rings: Vec::new(),
            kicks: kicks.map(|kick| Arc::new(kick.unwrap())).collect(),
            queue_sizes,
            device: None,
        }
    }

    /// Activates the device: where it was if `positions` are given, otherwise on new rings.
    fn activate(
        &mut self,
        random: &mut Random,
        device: Box<dyn Device>,
        positions: Option<&[QueuePosition]>,
    ) {
        if positions.is_none() {
            let event_idx = random.one_in(2);
            let sizes = self.queue_sizes.iter().enumerate();
            let memory = &self.memory;
            self.rings = sizes
                .map(|(index, size)| Ring::new(random, memory, index, *size, event_idx))
                .collect();
            for kick in &self.kicks {
                let _ = kick.read();
            }
        }
        let queues = (0..self.rings.len()).map(|index| Some(self.queue(index, positions)));
        let activation = activation(self.features, &self.memory, queues.collect());
        match device.activate(activation) {
            Ok(running) => self.device = Some(running),
            Err((_, fault)) => panic!("a device on good rings does not start: {fault}"),
        }
    }

    fn queue(&self, index: usize, positions: Option<&[QueuePosition]>) -> DeviceQueue {
        let mut queue = DeviceQueue::new(
            index,
            self.rings[index].settings,
            &self.memory,
            Arc::clone(&self.kicks[index]),
            QueueInterrupt::new().unwrap(),
        )
        .unwrap();
        if let Some(positions) = positions {
            let position = positions.iter().find(|position| position.index == index);
            queue.set_position(*position.expect("a device that stops knows all its positions"));
        }
        queue
    }

    fn play(
        mut self,
        random: &mut Random,
        request: fn(&mut Random, usize) -> Vec<u8>,
        mut host: Box<dyn FnMut(&mut Random)>,
    ) {
        for _ in 0..STEPS {
            random.step();
            let index = random.index(self.rings.len());
            match random.below(16) {
                0..=5 => {
                    let request = request(random, index);
                    self.rings[index].offer(random, &request, self.malice);
                    self.rings[index].reap();
                }
                6 if self.malice > 0 && random.one_in(self.malice) => {
                    self.rings[index].mess(random);
                }
                7 => self.rings[index].write_used_event(random),
                8 => host(random),
                9 => self.write_config(random),
                10 => self.pause(random),
                11 if random.one_in(8) => self.reset(random),
                12 => {
                    // Tokens may be stale when they arrive.
                    let token = random.number() as u32;
                    self.call(random, |device| device.on_ready(token).map(|_| ()));
                }
                13 => self.settle(random),
                _ => self.call(random, |device| device.on_queue(index).map(|_| ())),
            }
            // What is wrong in one queue may be a buffer on top of the rings of another.
            if self.rings.iter().any(Ring::is_messed) {
                self.rings.iter_mut().for_each(Ring::give_up);
            }
        }
        // Whatever happened, a new driver finds a device that works.
        self.reset(random);
        self.settle(random);
        self.stop();
    }

    fn device(&mut self) -> &mut Box<dyn Running> {
        self.device.as_mut().unwrap()
    }

    fn stop(&mut self) -> Stopped {
        self.device.take().unwrap().stop()
    }

    /// Calls the device; after a fault its driver resets it.
    fn call(
        &mut self,
        random: &mut Random,
        call: impl FnOnce(&mut dyn Running) -> Result<(), DeviceFault>,
    ) {
        if call(self.device().as_mut()).is_err() {
            self.reset(random);
        }
    }

    fn reset(&mut self, random: &mut Random) {
        let mut device = self.stop().device;
        device.reset();
        self.activate(random, device, None);
    }

    fn pause(&mut self, random: &mut Random) {
        let Stopped { device, positions } = self.stop();
        self.activate(random, device, Some(&positions));
        for kick in &self.kicks {
            kick.write(1).unwrap();
        }
    }

    fn write_config(&self, random: &mut Random) {
        let length = random.index(9);
        let data = random.bytes(length);
        let offset = random.index(64);
        self.config.write(offset, &data);
        self.config.read(offset, &mut vec![0; length]);
    }

    /// Does what the io thread does until there is nothing left to do.
    fn settle(&mut self, random: &mut Random) {
        for _ in 0..CALLS {
            let tokens = ready(&self.device().watches());
            let mut idle = tokens.is_empty();
            for token in tokens {
                self.call(random, |device| device.on_ready(token).map(|_| ()));
            }
            for index in 0..self.kicks.len() {
                if self.kicks[index].read().is_ok() {
                    idle = false;
                    self.call(random, |device| device.on_queue(index).map(|_| ()));
                }
            }
            if idle {
                return;
            }
        }
        panic!("the device spins");
    }
}
