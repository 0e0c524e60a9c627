//! Numbers of several rounds.

/// What was measured, a number a round; the first round, which warms every cache, does not count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds what a round has measured.
    pub(crate) fn add(&mut self, round: usize, number: f64) {
        if round > 0 {
            self.0.push(number);
            self.0.sort_by(f64::total_cmp);
        }
    }

    /// The smallest.
    pub(crate) fn min(&self) -> Option<f64> {
        self.0.first().copied()
    }

    /// The largest.
    pub(crate) fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// The one in the middle; the upper one if there are two.
    pub(crate) fn median(&self) -> Option<f64> {
        self.0.get(self.0.len() / 2).copied()
    }
}

#[cfg(test)]
#[path = "samples_test.rs"]
mod tests;
