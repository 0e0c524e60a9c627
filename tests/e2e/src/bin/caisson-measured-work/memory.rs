//! Memory that is used, and freed at a moment that the host learns of.

use std::hint::black_box;
use std::io::Write;

const SIZE: usize = 512 << 20;
const PAGE: usize = 4096;

/// What is said when it is freed.
const FREED: &str = "freed";

pub(crate) fn work() {
    let mut memory = vec![0_u8; SIZE];
    for byte in memory.iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    black_box(&memory);
    // A mapping of its own, as large as it is: the allocator gives it back at once.
    drop(memory);
    println!("{FREED}");
    let flushed = std::io::stdout().flush();
    flushed.expect("somebody listens");
}
