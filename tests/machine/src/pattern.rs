//! Bytes that look random and that both ends can make for themselves: nobody has to keep what was
//! sent, and the first wrong byte is found.

use std::io::{self, Read, Write};

/// Bytes that depend only on a seed and their place, without an end. Reading makes them.
#[derive(Debug, Clone)]
pub struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    /// The bytes of `seed` from the first on.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    /// The first `count` of them.
    #[must_use]
    pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        Self::new(seed).fill(&mut bytes);
        bytes
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = mixed(self.seed.wrapping_add(self.position / 8)).to_le_bytes();
            // A word at a time, but for the part of one at the beginning and at the end.
            let skipped = (self.position % 8) as usize;
            let part = word.get(skipped..).unwrap_or_default();
            let count = part.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(part.get(..count).unwrap_or_default());
            self.position += count as u64;
            rest = later;
        }
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill(buffer);
        Ok(buffer.len())
    }
}

/// Takes what is written to it only if it is the pattern.
#[derive(Debug)]
pub struct Comparison {
    expected: Pattern,
    space: Vec<u8>,
}

impl Comparison {
    /// Compares with the pattern of `seed` from its first byte on.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            expected: Pattern::new(seed),
            space: Vec::new(),
        }
    }

    /// Compares everything that can be read from `source`, which must be `count` bytes.
    ///
    /// # Errors
    /// Says which byte differs, or how many there are instead; and what reading answers.
    pub fn of(source: &mut impl Read, seed: u64, count: u64) -> io::Result<()> {
        let mut comparison = Self::new(seed);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            comparison.write_all(buffer.get(..read).unwrap_or_default())?;
        }
        let compared = comparison.expected.position;
        if compared == count {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "{compared} bytes came, and {count} were to come"
            )))
        }
    }
}

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begun = self.expected.position;
        self.space.resize(bytes.len(), 0);
        self.expected.fill(&mut self.space);
        if self.space == bytes {
            return Ok(bytes.len());
        }
        let pairs = self.space.iter().zip(bytes);
        let wrong = (begun..).zip(pairs).find(|(_, (ours, came))| ours != came);
        let (place, (ours, came)) = wrong.unwrap_or((begun, (&0, &0)));
        Err(io::Error::other(format!(
            "byte {place} is {came:#04x} and not {ours:#04x}"
        )))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `count` sizes from 0 to `most`, different ones but the same in every run.
#[must_use]
pub fn random_sizes(seed: u64, count: usize, most: u64) -> Vec<u64> {
    (0..count as u64)
        .map(|index| mixed(seed.wrapping_add(index)) % (most + 1))
        .collect()
}

/// SplitMix64: consecutive numbers become unrelated ones.
fn mixed(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
#[path = "pattern_test.rs"]
mod tests;
