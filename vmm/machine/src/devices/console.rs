//! Console device (virtio 1.3 §5.3): output only, many bytes with one exit where the serial port
//! takes two exits for each. For debugging: the guest sees it as `hvc0`.

use vm_memory::Bytes as _;

use crate::console::Console;
use crate::virtio::chain::Chain;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, Running,
    Stopped, Watch,
};
use crate::virtio::queue::{DeviceQueue, QueueError};

/// Queue indices (virtio 1.3 §5.3.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const QUEUE_SIZES: [u16; 2] = [16, 64];

/// Columns, rows, number of ports, emergency write: without features none of them means anything.
const CONFIG_LENGTH: usize = 12;

/// Most bytes taken of one request; Linux writes at most a page. What is longer is cut, as is what
/// the reader of the console does not take in time.
const MAX_REQUEST: usize = 64 * 1024;

/// Bytes copied at a time.
const BLOCK: usize = 4096;

/// The console device before activation.
pub(crate) struct VirtioConsole {
    config: SharedConfig,
    console: Console,
    /// What earlier activations did.
    counters: Counters,
}

impl VirtioConsole {
    /// Makes a device that writes to `console`.
    pub(crate) fn new(console: Console) -> Self {
        Self {
            config: SharedConfig::new(vec![0; CONFIG_LENGTH]),
            console,
            counters: Counters::default(),
        }
    }
}

impl Device for VirtioConsole {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> SharedConfig {
        self.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult {
        let mut queues = activation.queues.into_iter();
        let mut next = || queues.next().flatten();
        let (receive, transmit) = (next(), next());
        // There is no input: the guest's buffers stay where they are.
        let Some(receive) = receive else {
            return Err((self, DeviceFault::QueueMissing(RECEIVE)));
        };
        let Some(transmit) = transmit else {
            return Err((self, DeviceFault::QueueMissing(TRANSMIT)));
        };
        Ok(Box::new(RunningConsole {
            device: *self,
            receive,
            transmit,
        }))
    }
}

/// The console device at work.
struct RunningConsole {
    device: VirtioConsole,
    receive: DeviceQueue,
    transmit: DeviceQueue,
}

/// Writes what is in `chain`; returns how much that was.
fn write(chain: &Chain, console: &Console) -> Result<u64, QueueError> {
    let mut reader = chain.reader();
    let wanted = reader.left().min(MAX_REQUEST);
    let mut block = [0; BLOCK];
    for slice in reader.slices(wanted)? {
        let mut done = 0;
        while let Ok(got @ 1..) = slice.read(&mut block, done) {
            console.put(block.get(..got).unwrap_or_default());
            done += got;
        }
    }
    Ok(wanted as u64)
}

impl Running for RunningConsole {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        if index == TRANSMIT {
            let VirtioConsole {
                console, counters, ..
            } = &mut self.device;
            let taken = &mut counters.bytes_from_guest;
            let serve = |chain: &Chain| {
                *taken = taken.saturating_add(write(chain, console)?);
                Ok(0)
            };
            self.transmit
                .serve(serve)
                .map_err(|error: QueueError| error.on(TRANSMIT))?;
        }
        Ok(Interest::Same)
    }

    fn on_ready(&mut self, _token: u32) -> Result<Interest, DeviceFault> {
        Ok(Interest::Same)
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        self.device.counters = self.counters();
        Stopped {
            positions: [&self.receive, &self.transmit]
                .map(DeviceQueue::position)
                .to_vec(),
            device: Box::new(self.device),
        }
    }

    fn counters(&self) -> Counters {
        self.device.counters.with_requests_of([&self.transmit])
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
