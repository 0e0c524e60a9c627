//! The virtio devices.

pub(crate) mod block;
pub(crate) mod fs;
pub(crate) mod rng;
pub(crate) mod vsock;
