//! Whether a guest kernel has what Caisson and containers need.
//!
//! A kernel built with `CONFIG_IKCONFIG` carries its configuration, gzip-compressed between the
//! marks `IKCFG_ST` and `IKCFG_ED` (linux/kernel/configs.c). It is read only after a start has
//! failed, to say why.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::GzDecoder;

// One list for the builder of our kernel, its check of somebody else's, and this one.
#[allow(unreachable_pub)]
#[path = "../../../guest-image/src/required.rs"]
mod required;

use required::{REQUIRED, RequiredOption};

/// The mark, which also stands in the text of some kernels, and how gzip data begin (RFC 1952).
const START_MARK: &[u8] = b"IKCFG_ST\x1f\x8b\x08";
/// Bytes of it that belong to the data.
const GZIP_MAGIC: u64 = 3;
/// Bytes read at a time while looking for the mark.
const CHUNK: usize = 1024 * 1024;
/// Most bytes of a kernel that are searched: far above any kernel, and a bound for a wrong file.
const MAX_SEARCHED: u64 = 1024 * 1024 * 1024;
/// Most bytes of an unpacked configuration; those of distributions have 300 KiB.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// The options that the kernel at `path` lacks; `None` if it does not carry its configuration.
///
/// # Errors
/// Fails when the file cannot be read or its configuration cannot be unpacked.
pub(crate) fn missing_options(path: &Path) -> io::Result<Option<Vec<RequiredOption>>> {
    Ok(embedded_config(path)?.map(|config| missing_in(&config)))
}

/// The options of [`REQUIRED`] that are not built in according to the text of a configuration.
pub(crate) fn missing_in(config: &str) -> Vec<RequiredOption> {
    let built_in: std::collections::HashSet<&str> = config
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=y"))
        .collect();
    REQUIRED
        .iter()
        .filter(|required| !built_in.contains(required.name))
        .copied()
        .collect()
}

/// One sentence that names the options and what each is for.
pub(crate) fn describe(missing: &[RequiredOption]) -> String {
    let list: Vec<String> = missing
        .iter()
        .map(|required| format!("{}, needed {}", required.name, required.why))
        .collect();
    format!(
        "its configuration lacks {}; build it with these set to y",
        list.join("; ")
    )
}

fn embedded_config(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let Some(mark) = find_mark(&mut file)? else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(mark + START_MARK.len() as u64 - GZIP_MAGIC))?;
    let mut config = String::new();
    GzDecoder::new(BufReader::new(file))
        .take(MAX_CONFIG)
        .read_to_string(&mut config)?;
    Ok(Some(config))
}

/// Offset of the start mark.
fn find_mark(file: &mut File) -> io::Result<Option<u64>> {
    let mut window = Vec::with_capacity(CHUNK + START_MARK.len());
    let mut window_start = 0;
    while window_start < MAX_SEARCHED {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        if let Some(at) = window
            .windows(START_MARK.len())
            .position(|bytes| bytes == START_MARK)
        {
            return Ok(Some(window_start + at as u64));
        }
        if read == 0 {
            return Ok(None);
        }
        // The mark may straddle two chunks.
        let done = window.len().saturating_sub(START_MARK.len() - 1);
        window.drain(..done);
        window_start += done as u64;
    }
    Ok(None)
}

#[cfg(test)]
#[path = "kernel_check_test.rs"]
mod tests;
