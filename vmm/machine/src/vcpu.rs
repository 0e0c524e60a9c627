//! Virtual CPUs: what they are at reset, and the threads that run them.

pub(crate) mod cpuid;
mod gate;
pub(crate) mod kick;
pub(crate) mod registers;
pub(crate) mod run;

/// Most vCPUs of a machine.
pub(crate) const MAX_VCPUS: u8 = 32;
