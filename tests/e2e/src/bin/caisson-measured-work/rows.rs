//! What is wanted, and what it took.

use std::time::Instant;

/// The rows that are wanted of a place.
#[derive(Debug)]
pub(crate) struct Rows {
    wanted: String,
    place: String,
}

impl Rows {
    pub(crate) fn new(wanted: &str, place: &str) -> Self {
        Self {
            wanted: wanted.to_owned(),
            place: place.to_owned(),
        }
    }

    /// Does what is to be measured, if that is wanted, and tells what it took.
    pub(crate) fn row(&self, name: &str, work: impl FnOnce()) {
        if self.wants(&[name]) {
            let begun = Instant::now();
            work();
            let took = begun.elapsed().as_nanos();
            println!("{}\t{took}", self.full(name));
        }
    }

    /// Whether one of them is wanted, so that what they need has to be made.
    pub(crate) fn wants(&self, names: &[&str]) -> bool {
        names
            .iter()
            .any(|name| self.full(name).contains(&self.wanted))
    }

    fn full(&self, name: &str) -> String {
        format!("{}: {name}", self.place)
    }
}

/// SplitMix64: consecutive numbers become unrelated ones, the same in every run.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A number below `most`, different for each `index`.
pub(crate) fn random(index: usize, most: usize) -> usize {
    let most = most.max(1) as u64;
    usize::try_from(mixed(index as u64) % most).unwrap_or_default()
}
