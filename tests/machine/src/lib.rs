//! What the tests of `caisson-vmm` are written with: a machine without containers.
//!
//! ```text
//!  test ── TestMachine ── control channel ──▶ caisson-vmm ◀── vhost-user ── caisson-fs
//!              │                                  │
//!              └── vsock: Request, Frame ──▶ caisson-test-guest, PID 1 of the guest
//! ```
//!
//! A [`TestMachine`] plays the shim: it starts the installed VMM and file servers, boots the
//! installed guest kernel and talks to the test guest, which runs programs, keeps streams of known
//! bytes flowing and checks them ([`Pattern`]). The guest's root is the outer machine's own,
//! read-only, so every program that is installed there can be run in the guest.
//!
//! The tests run as root inside the testbed (`cargo verify`, or `cargo testbed` by hand).

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod builder;
mod control;
mod disk;
mod frame;
mod guest;
mod guest_process;
mod host_process;
mod machine;
mod pattern;
mod process;
mod recording;
mod request;
pub mod ring;
mod samples;
mod step;
mod tap;
pub mod vsock;
mod wait;

pub use builder::{Builder, Device, GUEST_CID, KERNEL, PARAMETERS, initrd_of};
pub use disk::Disk;
pub use frame::Frame;
pub use guest::echo_on;
pub use guest_process::{GuestProcess, Output};
pub use host_process::{HostMemory, HostProcess};
pub use machine::TestMachine;
pub use pattern::{Comparison, Pattern, random_sizes};
pub use recording::Recording;
pub use request::{Address, DiskWork, HELLO_PORT, Request, SERVICE_PORT, Took};
pub use samples::Samples;
pub use step::{ARENA_BYTES, Step};
pub use tap::Tap;
pub use wait::{PATIENCE, eventually};
