//! Memory that is used, and freed when the host has seen that, at a moment that it learns of.

use std::hint::black_box;
use std::io::{self, BufRead, Write};

const SIZE: usize = 512 << 20;
const PAGE: usize = 4096;

/// What is said when it is used. A line is the answer.
const USED: &str = "used";
/// What is said when it is freed.
const FREED: &str = "freed";

pub(crate) fn work() {
    let mut memory = vec![0_u8; SIZE];
    for byte in memory.iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    black_box(&memory);
    say(USED);
    let answer = io::stdin().lock().lines().next();
    assert!(answer.is_some(), "nobody answers");
    // A mapping of its own, as large as it is: the allocator gives it back at once.
    drop(memory);
    say(FREED);
}

fn say(word: &str) {
    println!("{word}");
    let flushed = io::stdout().flush();
    flushed.expect("somebody listens");
}
