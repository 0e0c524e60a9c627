//! What was counted last, kept in the repository, so that a change can be compared with any revision
//! before it.
//!
//! Only counts of instructions are kept: they are the same wherever they are made.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The record, below the checkout.
const RECORD: &str = "docs/instructions.tsv";
const HEAD: &str = "# Millions of instructions, host and guest together: `cargo measure --icount --record`, and with --vmm.\n";
/// What two runs of the same programs may differ by, in percent.
const NOISE: f64 = 2.0;

/// One number: what was measured, of whom, and how many millions of instructions it took.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    what: String,
    who: String,
    millions: f64,
}

/// The rows of a benchmark, which wrote them to `file`.
///
/// # Errors
/// When there are none, or something else is in the file.
fn read(file: &Path) -> Result<Vec<Row>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let rows = parse(&text).with_context(|| format!("reading {}", file.display()))?;
    ensure!(!rows.is_empty(), "the benchmark has counted nothing");
    Ok(rows)
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut cells = line.split('\t');
            let (what, who, millions) = (cells.next(), cells.next(), cells.next());
            let (Some(what), Some(who), Some(millions), None) = (what, who, millions, cells.next())
            else {
                bail!("not three cells with tabs between them: {line:?}");
            };
            Ok(Row {
                what: what.to_owned(),
                who: who.to_owned(),
                millions: millions
                    .parse()
                    .with_context(|| format!("not a number: {line:?}"))?,
            })
        })
        .collect()
}

/// Puts the rows in `measured` into the record of the checkout at `workspace`; what was not measured
/// stays as it was.
///
/// # Errors
/// When either file cannot be read, or the record not be written.
pub(crate) fn keep(workspace: &Path, measured: &Path) -> Result<()> {
    let record = workspace.join(RECORD);
    let mut rows = match record.exists() {
        true => read(&record)?,
        false => Vec::new(),
    };
    for new in read(measured)? {
        match same(&rows, &new) {
            Some(index) => rows.splice(index..=index, [new]).for_each(drop),
            None => rows.push(new),
        }
    }
    rows.sort_by(|a, b| (&a.what, &a.who).cmp(&(&b.what, &b.who)));
    let mut text = HEAD.to_owned();
    for Row {
        what,
        who,
        millions,
    } in rows
    {
        writeln!(text, "{what}\t{who}\t{millions:.1}")?;
    }
    fs::write(&record, text).with_context(|| format!("cannot write {}", record.display()))
}

/// Prints the rows in `measured` beside those that `revision` has in its record.
///
/// # Errors
/// When git has no such revision, or that has no record.
pub(crate) fn compare(workspace: &Path, measured: &Path, revision: &str) -> Result<()> {
    let old = Command::new("git")
        .arg("-C")
        .arg(workspace)
        .args(["show", &format!("{revision}:{RECORD}")])
        .output()
        .context("cannot run git")?;
    if !old.status.success() {
        let said = String::from_utf8_lossy(&old.stderr);
        bail!(
            "--against {revision}: there is no {RECORD} in it: {}",
            said.trim()
        );
    }
    let old = parse(&String::from_utf8_lossy(&old.stdout))?;
    print!("{}", table(&old, &read(measured)?, revision));
    Ok(())
}

fn table(old: &[Row], new: &[Row], revision: &str) -> String {
    let mut text = format!("\nmillions of instructions | {revision} | now | change\n");
    for row in new {
        let before = same(old, row).and_then(|index| old.get(index));
        let (before, change) = match before {
            None => ("–".to_owned(), "new".to_owned()),
            Some(before) => {
                let percent = (row.millions / before.millions - 1.0) * 100.0;
                let change = match percent.abs() <= NOISE {
                    true => "none".to_owned(),
                    false => format!("{percent:+.1} %"),
                };
                (format!("{:.1}", before.millions), change)
            }
        };
        let Row {
            what,
            who,
            millions,
        } = row;
        text.push_str(&format!(
            "{what}, {who} | {before} | {millions:.1} | {change}\n"
        ));
    }
    text
}

/// Where `rows` have a number of the same thing.
fn same(rows: &[Row], row: &Row) -> Option<usize> {
    rows.iter()
        .position(|other| (&other.what, &other.who) == (&row.what, &row.who))
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
