//! Work whose cost is measured inside a container, and on the host beside it (`cargo measure --work`).
//!
//! ```text
//! caisson-measured-work ROWS PLACE PIECE ARGUMENT
//! ```
//!
//! does the parts of PIECE in whose row ROWS occurs, a fixed amount of each, and prints a line
//! `ROW<tab>NANOSECONDS` for each: so no start of a program or container is in it. PLACE is the
//! beginning of every row's name.
//!
//! The program is linked statically and runs in any image.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "work that cannot be done has no cost"
)]

mod disk;
mod memory;
mod network;
mod processor;
mod rows;
mod tree;

use std::path::Path;

use rows::Rows;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    match argument(0) {
        // What this program starts to measure starts.
        processor::NOTHING => return,
        processor::ECHO => return processor::echo(),
        _ => {}
    }
    let rows = Rows::new(argument(0), argument(1));
    let place = Path::new(argument(3));
    match argument(2) {
        "processor" => processor::work(&rows),
        "disk" => disk::work(&rows, place),
        "source" => tree::source(&rows, place),
        "packages" => tree::packages(&rows, place),
        "network" => network::work(&rows, argument(3)),
        "memory" => memory::work(),
        "mount" => disk::mount(place, Path::new(argument(4))),
        other => panic!("there is no piece of work {other:?}"),
    }
}
