//! Which disks a pod has, what is on each, and who needs them.

use std::collections::{BTreeMap, BTreeSet};

use caisson_control::MAX_DISK_PARTS;

use super::source::Lock;
use super::{DeviceNumber, DiskKey, Order, failed};
use crate::SandboxError;

/// Most disks of a pod: half of the slots of its bus.
const MOST: usize = 16;

/// The disks of a pod that are plugged.
#[derive(Debug, Default)]
pub(super) struct Plugged {
    /// By their slots.
    disks: BTreeMap<u8, Disk>,
    /// Where each device and file is.
    places: BTreeMap<DiskKey, Place>,
}

#[derive(Debug)]
struct Disk {
    writable: bool,
    /// How often a container has something of it. What else is on it stays with it, and is there for a
    /// container that comes later.
    users: usize,
    locks: Vec<Lock>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    slot: u8,
    /// Its number in the guest: what the agent says, and of use for the guest only.
    in_guest: DeviceNumber,
}

/// A disk that has been plugged.
#[derive(Debug)]
pub(super) struct NewDisk {
    /// Where it is on the bus.
    pub(super) slot: u8,
    /// Whether the guest may write to it.
    pub(super) writable: bool,
    /// What is on it, and what the guest calls that.
    pub(super) places: Vec<(DiskKey, DeviceNumber)>,
    /// Of what is on it.
    pub(super) locks: Vec<Lock>,
}

impl Plugged {
    /// Counts one more user of what the pod has already; the number in the guest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::FailedPrecondition`] when it is to be written and cannot be.
    pub(super) fn take(
        &mut self,
        key: DiskKey,
        writable: bool,
    ) -> Option<Result<DeviceNumber, SandboxError>> {
        let place = self.places.get(&key)?;
        let disk = self.disks.get_mut(&place.slot)?;
        if writable && !disk.writable {
            return Some(Err(failed(
                "another container of the pod has it, to read only, and one that writes must come \
                 first",
            )));
        }
        disk.users += 1;
        Some(Ok(place.in_guest))
    }

    /// Whether there is a place for one more disk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::FailedPrecondition`].
    pub(super) fn check_room(&self) -> Result<(), SandboxError> {
        match self.disks.len() < MOST {
            true => Ok(()),
            false => Err(failed(format!("a pod can have {MOST} disks, and has them"))),
        }
    }

    /// The orders that become one disk with the first of `orders`: that alone, or with others that are files
    /// to be read only, in their order. What somebody in `all` wants to write is not among them, nor what the
    /// pod has already.
    pub(super) fn together<'a>(&self, orders: &'a [Order], all: &[Order]) -> Vec<&'a Order> {
        let fits = |order: &Order| {
            let key = order.source.key();
            let is_written = |other: &Order| other.writable && other.source.key() == key;
            order.source.is_file() && !self.places.contains_key(&key) && !all.iter().any(is_written)
        };
        let Some((first, others)) = orders.split_first() else {
            return Vec::new();
        };
        let mut together = vec![first];
        if !fits(first) {
            return together;
        }
        let mut keys = BTreeSet::from([first.source.key()]);
        for order in others {
            if together.len() == MAX_DISK_PARTS {
                break;
            }
            if fits(order) && keys.insert(order.source.key()) {
                together.push(order);
            }
        }
        together
    }

    /// Notes a disk that nobody uses yet.
    pub(super) fn add(&mut self, disk: NewDisk) {
        let NewDisk {
            slot,
            writable,
            places,
            locks,
        } = disk;
        let places = places
            .into_iter()
            .map(|(key, in_guest)| (key, Place { slot, in_guest }));
        self.places.extend(places);
        let disk = Disk {
            writable,
            users: 0,
            locks,
        };
        self.disks.insert(slot, disk);
    }

    /// Counts one user less. If that was the last of its disk, the disk is forgotten: its slot, and the locks
    /// of what is on it.
    pub(super) fn release(&mut self, key: DiskKey) -> Option<(u8, Vec<Lock>)> {
        let slot = self.places.get(&key)?.slot;
        let disk = self.disks.get_mut(&slot)?;
        disk.users = disk.users.saturating_sub(1);
        if disk.users > 0 {
            return None;
        }
        self.places.retain(|_, place| place.slot != slot);
        let disk = self.disks.remove(&slot)?;
        Some((slot, disk.locks))
    }
}

#[cfg(test)]
#[path = "plugged_test.rs"]
mod tests;
