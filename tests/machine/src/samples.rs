//! Numbers of several rounds.

use std::fs::OpenOptions;
use std::io::Write;

/// Where `cargo measure` reads counts.
const COUNTS: &str = "/share/counts.tsv";

/// What was measured, a number a round; the first round, which warms every cache, does not count.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds what a round has measured; rounds are numbered from 0 on.
    pub fn add(&mut self, round: usize, number: f64) {
        if round > 0 {
            self.0.push(number);
            self.0.sort_by(f64::total_cmp);
        }
    }

    /// The smallest.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        self.0.first().copied()
    }

    /// The largest.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// The one in the middle; the upper one if there are two.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        self.0.get(self.0.len() / 2).copied()
    }

    /// By how many percent of the one in the middle the others differ from it, at most.
    #[must_use]
    pub fn spread(&self) -> Option<f64> {
        let (min, median, max) = (self.min()?, self.median()?, self.max()?);
        Some((max - median).max(median - min) / median * 100.0)
    }

    /// Adds the one in the middle to what `cargo measure --icount` keeps and compares: with its
    /// clock, a millisecond is a million instructions.
    ///
    /// # Panics
    /// Panics outside of `cargo measure`.
    pub fn count(&self, what: &str, who: &str) {
        let Some(millions) = self.median() else {
            return;
        };
        let counts = OpenOptions::new().append(true).open(COUNTS);
        let mut counts = counts.expect("it was made for this run");
        writeln!(counts, "{what}\t{who}\t{millions}").expect("the folder is shared to write");
    }
}

#[cfg(test)]
#[path = "samples_test.rs"]
mod tests;
