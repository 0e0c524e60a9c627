//! How a command ended, as one byte in the way shells report it.

use rustix::process::WaitStatus;

/// The exit status of a command: its own, or 128 + n if signal n ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(u8);

impl ExitStatus {
    /// What the testbed itself ends with when it could not run the command at all.
    pub const TESTBED_FAILED: Self = Self(125);

    /// The status with this byte.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        Self(code)
    }

    /// From what wait(2) said.
    #[must_use]
    pub fn of_wait(status: WaitStatus) -> Self {
        let number = status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
        // Exit statuses are 8 bits and signals end at 64, so the fallback is never taken.
        Self(number.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX))
    }

    /// The byte.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }

    /// Status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
#[path = "exit_status_test.rs"]
mod tests;
