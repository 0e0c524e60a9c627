//! `caisson-vmm` alone, with a guest that does what a test asks for. Every test says in its name
//! what holds.
//!
//! They need root, KVM and an installed Caisson, so they are ignored unless asked for:
//! `cargo verify` runs them in the testbed, one after another. Booting a machine takes seconds in
//! emulation, so that tests which can share one do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod calls;
mod disk;
mod end;
mod hostile;
mod hotplug;
mod memory;
mod metrics;
mod network;
mod pause;
mod processors;
mod sharing;
mod vsock;
