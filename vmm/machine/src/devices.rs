//! The virtio devices.

pub(crate) mod fs;
pub(crate) mod net;
pub(crate) mod rng;
pub(crate) mod vsock;
