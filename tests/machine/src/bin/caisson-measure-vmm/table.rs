//! Tables as the documentation has them.

use caisson_machine_tests::Samples;

/// A table in Markdown.
#[derive(Debug)]
pub(crate) struct Table {
    columns: usize,
}

impl Table {
    /// Prints the head.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let table = Self {
            columns: columns.len(),
        };
        println!();
        table.row(columns.iter().map(|name| (*name).to_owned()));
        println!("|{}", "---|".repeat(columns.len()));
        table
    }

    /// Prints a row; cells that are missing are empty.
    pub(crate) fn row(&self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells.into_iter().collect();
        cells.resize(self.columns, String::new());
        println!("| {} |", cells.join(" | "));
    }
}

/// The smallest and the middle one, with so many digits behind the point.
pub(crate) fn min_and_median(samples: &Samples, digits: usize) -> String {
    match (samples.min(), samples.median()) {
        (Some(min), Some(median)) => format!("{min:.digits$} / {median:.digits$}"),
        _ => "–".to_owned(),
    }
}

/// The middle one.
pub(crate) fn median(samples: &Samples, digits: usize) -> String {
    samples
        .median()
        .map_or_else(|| "–".to_owned(), |median| format!("{median:.digits$}"))
}
