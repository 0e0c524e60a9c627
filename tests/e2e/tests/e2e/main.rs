//! Caisson through a real containerd. Every test says in its name what holds.
//!
//! They need root, containerd, the images and an installed Caisson, so they are ignored unless
//! asked for: `cargo verify` runs them in the testbed, one after another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod changes;
mod cri;
mod exec;
mod exhaustion;
mod exit_codes;
mod failures;
mod faults;
mod floods;
mod hooks;
mod hostile;
mod jail;
mod lifecycle;
mod mounts;
mod network;
mod roots;
mod smoke;
mod soak;
mod stdio;
mod streams;
mod terminals;
