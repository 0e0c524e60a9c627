//! One of the two queues of the device.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use vhost_user_backend_fs::bitmap::BitmapMmapRegion;
use virtio_queue_fs::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory_fs::{GuestAddress, GuestMemoryMmap};

/// Guest memory as the file system library wants it. The bitmap is for live migration and unused.
pub(crate) type GuestRam = GuestMemoryMmap<BitmapMmapRegion>;

/// Requests served before anybody else gets a turn.
const BUDGET: u32 = 256;

/// What went wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    /// The guest or the VMM broke the rules of the queue.
    #[error("malformed queue: {0}")]
    Queue(#[from] virtio_queue_fs::Error),
    /// The notification descriptor failed.
    #[error("cannot notify the guest: {0}")]
    Notify(io::Error),
    /// The request cannot be answered.
    #[error("malformed request: {0}")]
    Request(String),
    /// Our own state is not as it should be.
    #[error(transparent)]
    Confinement(#[from] caisson_jail::JailError),
}

/// A queue, in whatever state its set-up is.
pub(crate) struct Ring {
    /// The queue itself.
    pub(crate) queue: Queue,
    /// Becomes readable when the guest adds requests.
    kick: Option<File>,
    /// Written to when requests are done.
    call: Option<File>,
    /// As the VMM said last.
    pub(crate) enabled: bool,
}

impl Ring {
    /// A queue of at most `max_size` descriptors, not set up yet.
    pub(crate) fn new(max_size: u16) -> Result<Self, RingError> {
        Ok(Self {
            queue: Queue::new(max_size)?,
            kick: None,
            call: None,
            enabled: false,
        })
    }

    /// Takes the descriptor that tells of new requests, and starts the queue.
    pub(crate) fn start(&mut self, kick: Option<File>) {
        self.queue.set_ready(kick.is_some());
        self.kick = kick;
    }

    /// Takes the descriptor for interrupts.
    pub(crate) fn set_call(&mut self, call: Option<File>) {
        self.call = call;
    }

    /// Stops the queue; returns the index of the next request. Requests are served one by one on
    /// the thread that calls this, so none is under way.
    pub(crate) fn stop(&mut self) -> u16 {
        self.queue.set_ready(false);
        self.kick = None;
        self.call = None;
        self.queue.next_avail()
    }

    /// What to wait for while the queue runs.
    pub(crate) fn kick(&self) -> Option<&File> {
        self.kick
            .as_ref()
            .filter(|_| self.enabled && self.queue.ready())
    }

    /// Takes over the addresses and the index of the used ring.
    ///
    /// # Errors
    /// Fails when an address is misaligned or outside memory.
    pub(crate) fn set_addresses(
        &mut self,
        memory: &GuestRam,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<(), RingError> {
        let queue = &mut self.queue;
        queue.try_set_desc_table_address(GuestAddress(descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(available))?;
        queue.try_set_used_ring_address(GuestAddress(used))?;
        // The protocol only tells the index of the available ring.
        let next_used = queue.used_idx(memory, Ordering::Relaxed)?;
        queue.set_next_used(next_used.0);
        Ok(())
    }

    /// Serves what is in the queue with `handle`, which returns the number of bytes written. True
    /// when there is more to do although nobody will say so.
    ///
    /// # Errors
    /// Fails when the queue or a request is malformed.
    pub(crate) fn serve(
        &mut self,
        memory: &GuestRam,
        mut handle: impl FnMut(DescriptorChain<&GuestRam>) -> Result<u32, RingError>,
    ) -> Result<bool, RingError> {
        if let Some(kick) = &self.kick {
            // Empty when we came back unasked.
            let _ = rustix::io::read(kick, &mut [0; 8]);
        }
        let mut budget = BUDGET;
        loop {
            self.queue.disable_notification(memory)?;
            while let Some(chain) = self.queue.iter(memory)?.next() {
                let head = chain.head_index();
                let written = handle(chain)?;
                self.queue.add_used(memory, head, written)?;
                if self.queue.needs_notification(memory)? {
                    self.notify()?;
                }
                budget -= 1;
                if budget == 0 {
                    return Ok(true);
                }
            }
            if !self.queue.enable_notification(memory)? {
                return Ok(false);
            }
        }
    }

    fn notify(&self) -> Result<(), RingError> {
        let Some(call) = &self.call else {
            return Ok(());
        };
        match rustix::io::write(call, &1u64.to_ne_bytes()) {
            // The counter is full: the guest is being told already.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(RingError::Notify(error.into())),
        }
    }
}
