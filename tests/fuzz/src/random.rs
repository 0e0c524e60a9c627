//! Where everything random comes from.

use std::sync::Arc;

use crate::run::Progress;

/// A generator of numbers: splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014). Every seed gives another sequence, and neighbouring seeds unrelated ones.
pub struct Random {
    state: u64,
    progress: Arc<Progress>,
}

impl Random {
    /// The sequence of `seed`; the steps that are taken with it go to `progress`.
    pub(super) fn new(seed: u64, progress: Arc<Progress>) -> Self {
        Self {
            state: seed,
            progress,
        }
    }

    /// Says that the next step begins: shows that the round is alive, and which step fails.
    pub fn step(&self) {
        self.progress.step();
    }

    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number from 0 to `limit - 1`.
    ///
    /// # Panics
    /// Without any number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// An index of something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// Without any.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// One of `choices`, the others are dropped.
    ///
    /// # Panics
    /// Without any.
    pub fn pick_of<T, const N: usize>(&mut self, choices: [T; N]) -> T {
        let which = self.index(N);
        choices.into_iter().nth(which).unwrap()
    }

    /// `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A number of the kind that breaks things: small, next to a power of two, close to the end
    /// of a type, or any.
    pub fn number(&mut self) -> u64 {
        let power = 1u64 << self.below(64);
        match self.below(6) {
            0 | 1 => self.below(20),
            2 => power,
            3 => power - 1,
            4 => 0u64.wrapping_sub(self.below(20)),
            _ => self.next(),
        }
    }
}
