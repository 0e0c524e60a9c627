//! Counts what test runners say at their end.

use std::fmt;
use std::ops::AddAssign;

/// Tests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were left out.
    pub skipped: u64,
}

impl Tally {
    /// Reads a line that counts: the closing one of Rust's test runner, or one of a single test of
    /// shimtest; `None` for any other line.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        Self::from_closing_line(line).or_else(|| Self::from_shimtest(line))
    }

    /// Reads the line with which Go's test runner ends a test of shimtest. They are the third
    /// level, below the suite and the profile; their parts are not counted.
    fn from_shimtest(line: &str) -> Option<Self> {
        let (outcome, _) = line
            .strip_prefix("        --- ")?
            .split_once(": TestShim/")?;
        let mut tally = Self::default();
        match outcome {
            "PASS" => tally.passed = 1,
            "FAIL" => tally.failed = 1,
            "SKIP" => tally.skipped = 1,
            _ => return None,
        }
        Some(tally)
    }

    /// Reads the closing line of Rust's test runner, `None` for any other line.
    fn from_closing_line(line: &str) -> Option<Self> {
        let counts = line.trim().strip_prefix("test result: ")?;
        let count = |word: &str| {
            let before = counts
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word))?;
            before.trim().parse().ok()
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 5 filtered \
                    out; finished in 0.10s";
        let tally = Tally {
            passed: 12,
            failed: 3,
            skipped: 4,
        };
        assert_eq!(Tally::from_closing_line(line), Some(tally));
    }

    #[test]
    fn a_test_of_shimtest_is_counted_and_its_parts_and_wholes_are_not() {
        let of = |line: &str| Tally::from_line(line).unwrap_or_default();
        let one = |passed, failed, skipped| Tally {
            passed,
            failed,
            skipped,
        };
        let pass = "        --- PASS: TestShim/caisson/Lifecycle (1.23s)";
        assert_eq!(of(pass), one(1, 0, 0));
        let fail = "        --- FAIL: TestShim/caisson/Events (1.23s)";
        assert_eq!(of(fail), one(0, 1, 0));
        let skip = "        --- SKIP: TestShim/caisson/Stress (0.00s)";
        assert_eq!(of(skip), one(0, 0, 1));
        for line in [
            "--- PASS: TestShim (1.23s)",
            "    --- PASS: TestShim/caisson (1.23s)",
            "            --- PASS: TestShim/caisson/InitExitCodes/Exit0 (1.23s)",
            "        --- PASS: something else",
        ] {
            assert_eq!(Tally::from_line(line), None, "{line}");
        }
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in [
            "",
            "running 3 tests",
            "test result: ok",
            "12 passed; 3 failed; 4 ignored",
        ] {
            assert_eq!(Tally::from_closing_line(line), None, "{line}");
        }
    }
}
