//! The real KVM for tests, which say so and pass where it cannot be had.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::vm::{Vm, VmError};

/// An open /dev/kvm; `None` where there is none for us.
pub(crate) fn open() -> Option<OwnedFd> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .inspect_err(|error| eprintln!("skipped: /dev/kvm cannot be opened: {error}"))
        .ok()
        .map(OwnedFd::from)
}

/// What came of making a machine; `None` where this KVM makes none, whatever is asked.
pub(crate) fn made(result: Result<Vm, VmError>) -> Option<Result<Vm, VmError>> {
    match result {
        Err(
            error @ (VmError::NotKvm(_)
            | VmError::Missing(_)
            | VmError::Call {
                what: "KVM_CREATE_VM",
                ..
            }),
        ) => {
            eprintln!("skipped: /dev/kvm makes no machine: {error}");
            None
        }
        result => Some(result),
    }
}
