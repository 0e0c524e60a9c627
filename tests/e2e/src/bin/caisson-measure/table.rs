//! Everything that was measured, as one table: a row for each thing, a column for each contender.
//!
//! Less is better in every row: milliseconds, memory, bytes.

use std::fmt::Write;
use std::time::{Duration, Instant};

use caisson_machine_tests::Samples;

use crate::contender::CAISSON;

/// The host itself, without a container.
pub(crate) const HOST: &str = "host";
/// The one that the others are compared with.
pub(crate) const RUNC: &str = "runc";

/// What Caisson is to take at most.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// So many times of what this contender takes.
    Times(f64, &'static str),
    /// So much.
    Most(f64),
}

/// What is measured.
#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    aim: Option<Aim>,
    /// In the order in which they first appeared.
    by: Vec<(&'static str, Samples)>,
}

/// All rows so far.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Notes what a contender took in a round; the first round does not count.
    pub(crate) fn note(&mut self, round: usize, what: &str, who: &'static str, took: Duration) {
        self.row(what, "ms").add(who, round, ms(took));
    }

    /// Notes something else than a time, measured once.
    pub(crate) fn once(&mut self, what: &str, unit: &'static str, who: &'static str, number: f64) {
        self.row(what, unit).add(who, 1, number);
    }

    /// What a row is to come to.
    pub(crate) fn aim(&mut self, what: &str, aim: Aim) {
        if let Some(row) = self.0.iter_mut().find(|row| row.what == what) {
            row.aim = Some(aim);
        }
    }

    /// Prints a row that is whole: who waits for the table sees how far it is. Times are counted.
    pub(crate) fn done(&self, what: &str) {
        for row in self.0.iter().filter(|row| row.what == what) {
            println!("\n{what}, {}", row.unit);
            for (who, samples) in &row.by {
                let (min, max) = (samples.min(), samples.max());
                println!(
                    "{who:<10} {} (from {:.1} to {:.1})",
                    row.cell(who),
                    min.unwrap_or_default(),
                    max.unwrap_or_default()
                );
                if row.unit == "ms" {
                    samples.count(what, who);
                }
            }
        }
    }

    /// All of it, in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (who, _) in self.0.iter().flat_map(|row| &row.by) {
            if !names.contains(who) {
                names.push(who);
            }
        }
        let mut text = format!("| | {} | Caisson's aim |\n", names.join(" | "));
        let _ = writeln!(text, "|{}", "---|".repeat(names.len() + 2));
        for row in &self.0 {
            let cells: Vec<String> = names.iter().map(|who| row.cell(who)).collect();
            let (what, unit, cells) = (&row.what, row.unit, cells.join(" | "));
            let _ = writeln!(text, "| {what}, {unit} | {cells} | {} |", row.judged());
        }
        text
    }

    fn row(&mut self, what: &str, unit: &'static str) -> &mut Row {
        let known = self.0.iter().position(|row| row.what == what);
        let index = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push(Row {
                what: what.to_owned(),
                unit,
                aim: None,
                by: Vec::new(),
            });
        }
        self.0.get_mut(index).expect("it is there or was added")
    }
}

impl Row {
    fn add(&mut self, who: &'static str, round: usize, number: f64) {
        match self.by.iter_mut().find(|(known, _)| *known == who) {
            Some((_, samples)) => samples.add(round, number),
            None => {
                let mut samples = Samples::default();
                samples.add(round, number);
                self.by.push((who, samples));
            }
        }
    }

    fn median(&self, who: &str) -> Option<f64> {
        let samples = self.by.iter().find(|(known, _)| *known == who);
        samples.and_then(|(_, samples)| samples.median())
    }

    /// What it takes of what another one takes.
    fn ratio(&self, who: &str, other: &str) -> Option<f64> {
        Some(self.median(who)? / self.median(other)?)
    }

    /// The median, how far the other rounds are from it, and how often it holds runc's.
    fn cell(&self, who: &str) -> String {
        let samples = self.by.iter().find(|(known, _)| *known == who);
        let Some((_, samples)) = samples else {
            return String::new();
        };
        let Some(median) = samples.median() else {
            return "–".to_owned();
        };
        let mut cell = format!("{median:.1}");
        if samples.min() != samples.max() {
            let _ = write!(cell, " ±{:.0} %", samples.spread().unwrap_or_default());
        }
        if let Some(ratio) = self.ratio(who, RUNC).filter(|_| who != RUNC) {
            let _ = write!(cell, " ({ratio:.2})");
        }
        cell
    }

    /// The aim, and whether it is met.
    fn judged(&self) -> String {
        let (most, of, reached) = match self.aim {
            None => return String::new(),
            Some(Aim::Most(most)) => (most, String::new(), self.median(CAISSON)),
            Some(Aim::Times(most, RUNC)) => {
                (most, " of runc's".to_owned(), self.ratio(CAISSON, RUNC))
            }
            Some(Aim::Times(most, other)) => {
                let reached = self.ratio(CAISSON, other);
                let is = reached.map_or(String::new(), |ratio| format!(", is {ratio:.2}"));
                (most, format!(" of the {other}'s{is}"), reached)
            }
        };
        match reached {
            None => format!("{most:.2}{of}"),
            Some(reached) if reached <= most => format!("{most:.2}{of}: met"),
            Some(_) => format!("{most:.2}{of}: missed"),
        }
    }
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

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
