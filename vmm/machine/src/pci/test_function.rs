//! A function for tests.

use super::Function;
use super::config_space::{ConfigSpace, Identity};

/// A host bridge without registers of its own: the smallest function there can be.
#[derive(Debug)]
pub(crate) struct TestFunction(ConfigSpace);

impl TestFunction {
    /// Makes one.
    pub(crate) fn new() -> Self {
        Self(ConfigSpace::new(Identity {
            // The generic host bridge of QEMU; no driver binds to it.
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: [0x06, 0x00, 0x00],
            subsystem: (0, 0),
        }))
    }
}

impl Function for TestFunction {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn bar(&self) -> Option<(u64, u64)> {
        None
    }

    fn bar_read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _offset: u64, _data: &[u8]) {}
}
