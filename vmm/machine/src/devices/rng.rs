//! Entropy device (virtio 1.3 §5.4): fills the guest's buffers from the host kernel's generator.

use rustix::rand::GetRandomFlags;
use vm_memory::VolatileSlice;

use crate::virtio::chain::Chain;
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{
    ActivateResult, Activation, Counters, Device, DeviceFault, DeviceKind, Interest, Running,
    Stopped, Watch,
};
use crate::virtio::queue::{DeviceQueue, QueueError};

/// Most bytes given for one request. The driver may ask for up to 4 GiB, and the io thread serves
/// other devices too; what it gets back says how much it was (virtio 1.3 §5.4.6.2 asks for one
/// byte or more).
const MAX_REQUEST: usize = 64 * 1024;

/// Bytes taken from the kernel at a time. Up to 256 bytes, getrandom(2) neither blocks nor stops
/// half way; 4 KiB keeps the number of calls low and the stack small.
const BLOCK: usize = 4096;

const QUEUE_SIZES: [u16; 1] = [64];

/// The entropy device before activation.
#[derive(Debug)]
pub(crate) struct Rng {
    config: SharedConfig,
    /// What earlier activations did.
    counters: Counters,
}

impl Rng {
    /// Makes the device.
    pub(crate) fn new() -> Self {
        Self {
            config: SharedConfig::new(Vec::new()),
            counters: Counters::default(),
        }
    }
}

impl Device for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
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
        match activation.queues.into_iter().next().flatten() {
            Some(queue) => Ok(Box::new(RunningRng {
                device: *self,
                queue,
            })),
            None => Err((self, DeviceFault::QueueMissing(0))),
        }
    }
}

/// The entropy device at work.
struct RunningRng {
    device: Rng,
    queue: DeviceQueue,
}

/// Fills the writable part of `chain`; returns the number of bytes written.
fn fill(chain: &Chain) -> Result<u32, QueueError> {
    let mut writer = chain.writer();
    let wanted = writer.left().min(MAX_REQUEST);
    let mut written = 0;
    for slice in writer.slices(wanted)? {
        let now = fill_slice(&slice);
        written += now;
        if now < slice.len() {
            break;
        }
    }
    Ok(u32::try_from(written).unwrap_or(u32::MAX))
}

/// The bytes pass through a buffer of ours: the generator's interface takes ordinary memory, and
/// the guest's is none.
fn fill_slice(slice: &VolatileSlice<'_>) -> usize {
    let mut block = [0; BLOCK];
    let mut written = 0;
    while let Ok(rest) = slice.offset(written)
        && !rest.is_empty()
    {
        let now = block.len().min(rest.len());
        let Some(part) = block.get_mut(..now) else {
            break;
        };
        match rustix::rand::getrandom(&mut *part, GetRandomFlags::empty()) {
            Ok(got) => {
                rest.copy_from(part.get(..got).unwrap_or_default());
                written += got;
            }
            Err(rustix::io::Errno::INTR) => {}
            // Cannot happen once the host has booted; the driver then gets fewer bytes.
            Err(_) => break,
        }
    }
    written
}

impl Running for RunningRng {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn on_queue(&mut self, index: usize) -> Result<Interest, DeviceFault> {
        if index == 0 {
            let given = &mut self.device.counters.bytes_to_guest;
            let serve = |chain: &Chain| {
                let count = fill(chain)?;
                *given = given.saturating_add(count.into());
                Ok(count)
            };
            self.queue
                .serve(serve)
                .map_err(|error: QueueError| error.on(0))?;
        }
        Ok(Interest::Same)
    }

    fn on_ready(&mut self, _token: u32) -> Result<Interest, DeviceFault> {
        Ok(Interest::Same)
    }

    fn stop(self: Box<Self>) -> Stopped {
        let counters = self.counters();
        Stopped {
            positions: vec![self.queue.position()],
            device: Box::new(Rng {
                counters,
                ..self.device
            }),
        }
    }

    fn counters(&self) -> Counters {
        self.device.counters.with_requests_of([&self.queue])
    }
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod tests;
