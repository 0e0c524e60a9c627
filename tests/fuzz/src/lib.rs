//! Fuzz targets: tests that do what no guest would, for as long as one likes.
//!
//! Each target is a test below a module `fuzz` of the crate whose code it drives, and plays rounds
//! with [`run`]. A round begins with fresh objects and a seed of its own and does everything by it
//! ([`Random`]), so that the seed of the round that failed is all that is needed to see it again;
//! `run` prints it. What threads of their own do is not repeated exactly.
//!
//! In `cargo test` a target plays a fixed number of rounds from a fixed seed. `cargo fuzz` plays
//! others for a given time, with overflow checks and debug assertions on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests use it"
)]

mod random;
mod run;

pub use random::Random;
pub use run::{Played, run};
