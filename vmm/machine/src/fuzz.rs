//! Fuzz targets: tests that do what no driver and no shim would, for as long as one likes.
//!
//! `caisson-fuzz` plays their rounds. What threads of their own do is not repeated exactly, which is
//! why the devices are also driven without one.

mod boot;
mod bus;
mod control;
mod devices;
mod driver;
mod json;
mod poll;
mod queues;

pub(crate) use caisson_fuzz::{Random, run};

pub(crate) use self::poll::ready;
