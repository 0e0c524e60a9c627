//! What the end-to-end tests are written with: a client of containerd, a terminal, and a look at
//! what a test left behind.
//!
//! The tests run as root inside the testbed (`cargo verify`, or `cargo testbed` by hand).

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod container;
mod containerd;
mod cri;
mod ctr;
mod events;
mod faulty;
mod fifo;
mod leftovers;
mod network_namespace;
mod process;
mod settings;
mod shim;
mod terminal;
mod wait;

pub use container::Container;
pub use containerd::Containerd;
pub use cri::{Cri, CriContainer, CriEvents, CriStatus, Forwarding, PodConfig, PodSandbox};
pub use ctr::{Ctr, Finished, RUNTIME};
pub use events::{Event, Events};
pub use faulty::{faulty_runtime, wait_for_fail_point};
pub use fifo::Fifo;
pub use leftovers::CleanMachine;
pub use network_namespace::{NetworkNamespace, run};
pub use process::{Footprint, children_of, end_of, mounts_of, parent_of, signal};
pub use settings::Settings;
pub use shim::{Shim, bundle, code};
pub use terminal::Terminal;
pub use wait::wait_until;

/// A busybox image: one static binary and its links.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";
/// A Debian image made by mmdebstrap, with perl and python.
pub const DEBIAN: &str = "docker.io/library/debian:stable";
