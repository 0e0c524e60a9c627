//! Fuzz targets: tests that do what no driver and no shim would, for as long as one likes.
//!
//! Each target is a test that plays rounds. A round begins with fresh objects and a seed of its own
//! and does everything by it, so that the seed of the round that failed is all that is needed to
//! see it again; [`run`] prints it. What threads of their own do is not repeated exactly, which is
//! why the devices are also driven without one.
//!
//! In `cargo test` a target plays a fixed number of rounds from a fixed seed. `cargo fuzz` plays
//! others for a given time, with overflow checks and debug assertions on.

mod boot;
mod bus;
mod control;
mod devices;
mod driver;
mod json;
mod poll;
mod queues;
mod random;
mod run;

pub(crate) use self::poll::ready;
pub(crate) use self::random::Random;
pub(crate) use self::run::run;
