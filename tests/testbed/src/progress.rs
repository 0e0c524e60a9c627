//! Lines on standard error for the person who waits.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Steps shorter than this are not worth a second line.
const NOTABLE: Duration = Duration::from_secs(2);

/// Prints one line. A closed standard error is nobody's loss.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "testbed: {text}");
}

/// Says what begins, does it, and says how long it took if that was long.
///
/// # Errors
/// Those of `work`.
pub fn step<T>(text: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    line(&format!("{text} …"));
    let start = Instant::now();
    let result = work()?;
    let elapsed = start.elapsed();
    if elapsed >= NOTABLE {
        line(&format!("{text}: {:.0} s", elapsed.as_secs_f64()));
    }
    Ok(result)
}
