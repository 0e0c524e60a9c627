//! The virtio devices.

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod fs;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod rng;
pub(crate) mod vsock;
