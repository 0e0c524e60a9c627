//! What KVM does for the bus: doorbells and interrupts.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use vmm_sys_util::eventfd::EventFd;

use crate::pci::msix::{Message, MessageRouter};
use crate::virtio::runner::Doorbells;

/// Keeps account of what is connected.
#[derive(Default)]
pub(super) struct Host {
    /// By address and descriptor: two devices may have their doorbells in one place.
    bells: Mutex<BTreeMap<(u64, i32), EventFd>>,
    interrupts: Mutex<BTreeMap<u32, i32>>,
}

impl Host {
    /// A write to `address`: true if a doorbell takes it.
    pub(super) fn ring(&self, address: u64) -> bool {
        let bells = self.bells.lock().unwrap();
        let bell = bells.range((address, 0)..=(address, i32::MAX)).next();
        bell.is_some_and(|(_, kick)| kick.write(1).is_ok())
    }

    pub(super) fn assert_nothing_is_connected(&self) {
        assert!(self.bells.lock().unwrap().is_empty());
        assert!(self.interrupts.lock().unwrap().is_empty());
    }
}

impl Doorbells for Host {
    fn attach(&self, address: u64, kick: &EventFd) {
        let copy = kick.try_clone().unwrap();
        let key = (address, kick.as_raw_fd());
        let before = self.bells.lock().unwrap().insert(key, copy);
        assert!(before.is_none(), "attached twice");
    }

    fn detach(&self, address: u64, kick: &EventFd) {
        let key = (address, kick.as_raw_fd());
        let bell = self.bells.lock().unwrap().remove(&key);
        assert!(bell.is_some(), "was not attached");
    }
}

impl MessageRouter for Host {
    fn connect(&self, gsi: u32, event: &EventFd, _: Message) {
        let mut interrupts = self.interrupts.lock().unwrap();
        let before = interrupts.insert(gsi, event.as_raw_fd());
        assert!(before.is_none_or(|before| before == event.as_raw_fd()));
    }

    fn disconnect(&self, gsi: u32, event: &EventFd) {
        let mut interrupts = self.interrupts.lock().unwrap();
        assert_eq!(interrupts.remove(&gsi), Some(event.as_raw_fd()));
    }
}
