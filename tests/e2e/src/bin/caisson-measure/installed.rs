//! What each contender takes of a node's disk, without the distribution's libraries.

use std::fs;
use std::path::Path;

use crate::contender::Contender;
use crate::table::Table;

const ROW: &str = "disk of an installation";

pub(crate) fn measure(contenders: &[&'static Contender], table: &mut Table) {
    for contender in contenders {
        let bytes: u64 = contender
            .files
            .iter()
            .map(|file| size(Path::new(file)))
            .sum();
        table.once(ROW, "KiB", contender.name, bytes as f64 / 1024.0);
    }
    table.done(ROW);
}

/// Bytes of a file, or of all files in a directory.
fn size(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => fs::metadata(path).map_or(0, |file| file.len()),
    }
}
