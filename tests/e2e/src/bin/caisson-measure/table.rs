//! Times of the contenders at one thing, measured in turns, as a table.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

/// Where `cargo measure` reads counts.
const COUNTS: &str = "/share/counts.tsv";

/// Times by contender, in the order in which these first appeared.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<(&'static str, Vec<Duration>)>);

impl Times {
    /// Notes what one contender took.
    pub(crate) fn note(&mut self, name: &'static str, took: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(took),
            None => self.0.push((name, vec![took])),
        }
    }

    /// Prints them, with the ratios to the first contender, which is runc unless it was left out.
    pub(crate) fn print(mut self, title: &str) {
        println!("\n{title}");
        let columns = ["", "min ms", "median ms", "mean ms", "max ms"];
        println!(
            "{:<10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}",
            columns[0], columns[1], columns[2], columns[3], columns[4], "median", "mean"
        );
        let mut first = None;
        for (name, times) in &mut self.0 {
            times.sort();
            let at = |index: usize| times.get(index).copied().map(ms).unwrap_or_default();
            let mean = times.iter().copied().map(ms).sum::<f64>() / times.len() as f64;
            let median = at(times.len() / 2);
            count(title, name, median);
            let (first_median, first_mean) = *first.get_or_insert((median, mean));
            println!(
                "{name:<10} {:>10.1} {median:>10.1} {mean:>10.1} {:>10.1} {:>8.2} {:>8.2}",
                at(0),
                at(times.len().saturating_sub(1)),
                median / first_median,
                mean / first_mean,
            );
        }
    }
}

/// Adds a number to what `cargo measure --icount` keeps and compares: with its clock, a millisecond
/// is a million instructions.
fn count(what: &str, who: &str, millions: f64) {
    // How often it was done does not matter there.
    let what = what.split(", ").next().unwrap_or(what);
    let counts = OpenOptions::new().append(true).open(COUNTS);
    let mut counts = counts.expect("it was made for this run");
    writeln!(counts, "{what}\t{who}\t{millions}").expect("the folder is shared to write");
}

/// How long something takes.
pub(crate) fn time<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let made = what();
    (made, begun.elapsed())
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
