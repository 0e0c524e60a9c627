//! The device configuration space (virtio 1.3 §2.5): a few bytes that device and driver both see.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// The bytes, and a number that changes with them. Clones are the same space.
#[derive(Debug, Clone)]
pub(crate) struct SharedConfig(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    content: Mutex<Content>,
    /// What the driver may write; without this nothing is.
    writable: Option<Writable>,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    generation: u8,
}

#[derive(Debug)]
struct Writable {
    range: Range<usize>,
    wake: Arc<EventFd>,
}

impl SharedConfig {
    /// A space that the driver can only read.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self::make(bytes, None)
    }

    /// A space of which the driver may write the bytes in `range`; `wake` is signalled when it
    /// does.
    pub(crate) fn with_writable(bytes: Vec<u8>, range: Range<usize>, wake: Arc<EventFd>) -> Self {
        Self::make(bytes, Some(Writable { range, wake }))
    }

    fn make(bytes: Vec<u8>, writable: Option<Writable>) -> Self {
        Self(Arc::new(Shared {
            content: Mutex::new(Content {
                bytes,
                generation: 0,
            }),
            writable,
        }))
    }

    /// Length in bytes, which never changes.
    pub(crate) fn length(&self) -> usize {
        self.content().bytes.len()
    }

    /// Changes with every change by the device (virtio 1.3 §2.5.1).
    pub(crate) fn generation(&self) -> u8 {
        self.content().generation
    }

    /// Reads from `offset` on; what lies behind the end reads as zero.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        let content = self.content();
        for (byte, value) in data.iter_mut().zip(content.bytes.iter().skip(offset)) {
            *byte = *value;
        }
    }

    /// The device changes the bytes from `offset` on; what lies behind the end is dropped. The
    /// driver learns of it by [`super::runner::DriverLine::config_changed`].
    pub(crate) fn set(&self, offset: usize, data: &[u8]) {
        let mut content = self.content();
        for (byte, value) in content.bytes.iter_mut().skip(offset).zip(data) {
            *byte = *value;
        }
        content.generation = content.generation.wrapping_add(1);
    }

    /// The driver writes: what it may not write stays as it is.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        let Some(writable) = &self.0.writable else {
            return;
        };
        let mut content = self.content();
        let mut changed = false;
        let places = content.bytes.iter_mut().enumerate().skip(offset);
        for ((position, byte), value) in places.zip(data) {
            if writable.range.contains(&position) {
                *byte = *value;
                changed = true;
            }
        }
        drop(content);
        if changed {
            // Fails only when the counter is full, and then the device is woken anyway.
            let _ = writable.wake.write(1);
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // A panic elsewhere leaves bytes that are as good as any.
        self.0
            .content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
