//! The network device at work.

use std::os::fd::AsRawFd;

use super::Net;
use super::command::{self, Command};
use super::features::{self, CTRL_VQ, MQ, MRG_RXBUF, STATUS};
use super::receive::Receiver;
use super::transmit::Transmitter;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, DeviceFault, Interest, Running, Stopped, Watch,
};
use crate::virtio::queue::{DeviceQueue, QueueError};
use crate::virtio::runner::DriverLine;

/// Tokens of the timers; those of the taps are the numbers of their queue pairs.
const RECEIVE_TIMER: u32 = 0x100;
const TRANSMIT_TIMER: u32 = 0x101;

/// The network device at work.
pub(super) struct RunningNet {
    device: Net,
    features: u64,
    driver: DriverLine,
    /// The queue pairs that the driver set up, the first `device.active_pairs` of them in use.
    pairs: Vec<Pair>,
    control: Option<DeviceQueue>,
    /// Queues that the driver set up and cannot use.
    unused: Vec<DeviceQueue>,
    /// What is waited for, as in [`RunningNet::wanted`].
    watched: u64,
    /// The pair that is served first after a timer, a different one each time, so that none has
    /// all of a limit for itself.
    first: usize,
}

struct Pair {
    receiver: Receiver,
    transmitter: Transmitter,
}

impl RunningNet {
    /// Starts a device.
    pub(super) fn start(mut device: Box<Net>, activation: Activation) -> ActivateResult {
        let Activation {
            features,
            mut queues,
            driver,
            ..
        } = activation;
        // Where the control queue is depends on whether the driver knows of several queue pairs
        // (virtio 1.3 §5.1.2).
        let usable = if features & MQ == 0 {
            1
        } else {
            device.links.len()
        };
        let mut take = |index: usize| queues.get_mut(index).and_then(Option::take);
        let control = if features & CTRL_VQ == 0 {
            None
        } else {
            take(2 * usable)
        };
        let mut pairs = Vec::with_capacity(usable);
        let mut unused = Vec::new();
        for pair in 0..usable {
            match (take(2 * pair), take(2 * pair + 1)) {
                (Some(receive), Some(transmit)) if pair == pairs.len() => pairs.push(Pair {
                    receiver: Receiver::new(receive, features & MRG_RXBUF != 0),
                    transmitter: Transmitter::new(transmit),
                }),
                (None, _) if pair == 0 => return Err((device, DeviceFault::QueueMissing(0))),
                (_, None) if pair == 0 => return Err((device, DeviceFault::QueueMissing(1))),
                (receive, transmit) => unused.extend([receive, transmit].into_iter().flatten()),
            }
        }
        unused.extend(queues.into_iter().flatten());

        let active = device.active_pairs.min(pairs.len());
        let offloads = device
            .guest_offloads
            .unwrap_or(features::guest_offloads(features));
        if let Err(fault) = device
            .set_offloads(offloads)
            .and_then(|()| device.set_active_pairs(active))
        {
            return Err((device, fault));
        }
        let mut running = Self {
            device: *device,
            features,
            driver,
            pairs,
            control,
            unused,
            watched: 0,
            first: 0,
        };
        running.watched = running.wanted();
        Ok(Box::new(running))
    }

    /// Calls `serve` with every pair in use, its tap and the limits.
    fn each_pair(
        &mut self,
        mut serve: impl FnMut(&mut Pair, usize, &mut Net) -> Result<(), DeviceFault>,
    ) -> Result<(), DeviceFault> {
        let active = self.device.active_pairs;
        self.first = (self.first + 1) % active.max(1);
        for index in 0..active {
            let index = (index + self.first) % active;
            if let Some(pair) = self.pairs.get_mut(index) {
                serve(pair, index, &mut self.device)?;
            }
        }
        Ok(())
    }

    fn pair(&mut self, index: usize) -> Option<(&mut Pair, &mut Net)> {
        let pair = self.pairs.get_mut(..self.device.active_pairs)?;
        Some((pair.get_mut(index)?, &mut self.device))
    }

    /// Serves the control queue, and what its commands set free.
    fn serve_control(&mut self) -> Result<(), DeviceFault> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let (device, pairs) = (&mut self.device, self.pairs.len());
        let before = device.active_pairs;
        let index = control.index();
        let features = self.features;
        let mut obey = |command| match command {
            Command::QueuePairs(count) => {
                (1..=pairs).contains(&count.into()) && device.set_active_pairs(count.into()).is_ok()
            }
            Command::GuestOffloads(offloads) => {
                let done = device.set_offloads(offloads).is_ok();
                if done {
                    device.guest_offloads = Some(offloads);
                }
                done
            }
        };
        control
            .serve(|chain| command::serve(chain, features, &mut obey))
            .map_err(|error: QueueError| error.on(index))?;
        // What the driver notified before the pair was in use was not looked at.
        if self.device.active_pairs > before {
            self.each_pair(|pair, index, device| {
                pair.receive(index, device)?;
                pair.transmit(index, device)
            })?;
        }
        Ok(())
    }

    /// What to wait for: two bits for each pair in use, its tap readable and its tap writable.
    fn wanted(&self) -> u64 {
        let pairs = self.pairs.iter().take(self.device.active_pairs);
        pairs.rev().fold(0, |bits, pair| {
            let readable = u64::from(pair.receiver.wants_packets());
            let writable = u64::from(pair.transmitter.is_blocked());
            bits << 2 | writable << 1 | readable
        })
    }

    /// What follows from a call.
    fn after(&mut self) -> Interest {
        if !self.device.link_lost && self.pairs.iter().any(|pair| pair.receiver.is_lost()) {
            self.device.lose_link();
            if self.features & STATUS != 0 {
                self.driver.config_changed();
            }
        }
        let wanted = self.wanted();
        if std::mem::replace(&mut self.watched, wanted) == wanted {
            Interest::Same
        } else {
            Interest::Changed
        }
    }
}

impl Pair {
    fn receive(&mut self, index: usize, device: &mut Net) -> Result<(), DeviceFault> {
        let Some(link) = device.links.get(index) else {
            return Ok(());
        };
        self.receiver
            .run(&**link, &mut device.receive)
            .map_err(|error| error.on(2 * index))
    }

    fn transmit(&mut self, index: usize, device: &mut Net) -> Result<(), DeviceFault> {
        let Some(link) = device.links.get(index) else {
            return Ok(());
        };
        self.transmitter
            .run(&**link, &mut device.transmit)
            .map_err(|error| error.on(2 * index + 1))
    }

    /// The driver notified one of the two queues.
    fn on_queue(&mut self, queue: usize, device: &mut Net) -> Result<(), DeviceFault> {
        let Some(link) = device.links.get(queue / 2) else {
            return Ok(());
        };
        let result = if queue.is_multiple_of(2) {
            self.receiver.on_notification(&**link, &mut device.receive)
        } else {
            self.transmitter
                .on_notification(&**link, &mut device.transmit)
        };
        result.map_err(|error| error.on(queue))
    }
}

impl Running for RunningNet {
    fn watches(&self) -> Vec<Watch> {
        let directions = [
            (&self.device.receive, RECEIVE_TIMER),
            (&self.device.transmit, TRANSMIT_TIMER),
        ];
        let timers = directions.into_iter().filter_map(|(direction, token)| {
            Some(Watch {
                fd: direction.timer()?,
                token,
                readable: true,
                writable: false,
            })
        });
        let links = (0..).zip(&self.device.links);
        let taps = links.filter_map(|(token, link)| {
            let bits = self.watched >> (2 * token);
            let watch = Watch {
                fd: link.fd().as_raw_fd(),
                token,
                readable: bits & 1 != 0,
                writable: bits & 2 != 0,
            };
            // A descriptor that is waited for wakes the thread for errors in any case.
            (watch.readable || watch.writable).then_some(watch)
        });
        timers.chain(taps).collect()
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        if self.control.as_ref().map(DeviceQueue::index) == Some(index) {
            self.serve_control()?;
        } else if let Some((pair, device)) = self.pair(index / 2) {
            pair.on_queue(index, device)?;
        }
        Ok(self.after())
    }

    fn on_ready(&mut self, token: u32) -> Result<Interest, DeviceFault> {
        match token {
            RECEIVE_TIMER => {
                self.device.receive.on_timer();
                self.each_pair(|pair, index, device| {
                    if pair.receiver.is_throttled() {
                        pair.receive(index, device)?;
                    }
                    Ok(())
                })?;
            }
            TRANSMIT_TIMER => {
                self.device.transmit.on_timer();
                self.each_pair(|pair, index, device| {
                    if pair.transmitter.is_throttled() {
                        pair.transmit(index, device)?;
                    }
                    Ok(())
                })?;
            }
            index => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                if let Some((pair, device)) = self.pair(index) {
                    if pair.receiver.wants_packets() {
                        pair.receive(index, device)?;
                    }
                    if pair.transmitter.is_blocked() {
                        pair.transmit(index, device)?;
                    }
                }
            }
        }
        Ok(self.after())
    }

    fn stop(self: Box<Self>) -> Stopped {
        let Counters { requests, .. } = self.counters();
        let Self {
            mut device,
            pairs,
            control,
            unused,
            ..
        } = *self;
        let mut positions: Vec<_> = control
            .iter()
            .chain(&unused)
            .map(DeviceQueue::position)
            .collect();
        for pair in pairs {
            positions.extend([
                pair.transmitter.position(),
                pair.receiver.stop(&mut device.receive),
            ]);
        }
        device.requests = requests;
        Stopped {
            device: Box::new(device),
            positions,
        }
    }

    fn counters(&self) -> Counters {
        let Net {
            receive,
            transmit,
            requests,
            ..
        } = &self.device;
        let control = self.control.as_ref().map_or(0, DeviceQueue::requests);
        let pairs = self.pairs.iter();
        let now: u64 = pairs
            .map(|pair| pair.receiver.requests() + pair.transmitter.requests())
            .sum();
        Counters {
            requests: requests.saturating_add(now).saturating_add(control),
            bytes_from_guest: transmit.total_bytes(),
            bytes_to_guest: receive.total_bytes(),
            throttled: receive.total_throttled() + transmit.total_throttled(),
            dropped: receive.total_dropped() + transmit.total_dropped(),
        }
    }
}
