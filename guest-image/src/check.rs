//! Whether a file can be a guest kernel, and if not, what it lacks by name.

use std::fmt;
use std::io::Read;

use flate2::read::GzDecoder;

use crate::elf::{self, ElfError};
use crate::kconfig::Config;
use crate::required::{REQUIRED, RequiredOption};

/// Marks around the compressed configuration in a kernel with CONFIG_IKCONFIG (kernel/configs.c).
const CONFIG_START: &[u8] = b"IKCFG_ST";
/// Largest configuration that is unpacked, in bytes; a full one has about 300 KiB.
const CONFIG_LIMIT: u64 = 8 << 20;

/// One thing that is wrong with a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// It has no PVH entry note.
    NoPvhEntry,
    /// It does not carry its configuration, so that its options are unknown.
    NoConfig,
    /// An option is off, or a module.
    Lacks {
        /// What is needed.
        option: RequiredOption,
        /// Its value: `None` for off, `m` for a module.
        value: Option<String>,
    },
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPvhEntry => f.write_str(
                "it has no PVH entry: build it with CONFIG_PVH=y and keep the notes when stripping",
            ),
            Self::NoConfig => f.write_str(
                "it does not carry its configuration, so its options cannot be checked: build it with CONFIG_IKCONFIG=y",
            ),
            Self::Lacks { option, value } => {
                let state = match value.as_deref() {
                    Some("m") => "is a module, and a guest loads none",
                    _ => "is off",
                };
                write!(f, "{} {state}; it is needed {}", option.name, option.why)
            }
        }
    }
}

/// What is wrong with `file`, the whole of a kernel image; empty if nothing is known to be.
///
/// # Errors
/// Fails if it is not an uncompressed ELF kernel for x86-64.
pub fn kernel(file: &[u8]) -> Result<Vec<Defect>, ElfError> {
    let mut defects = Vec::new();
    if elf::read(file)?.pvh_entry.is_none() {
        defects.push(Defect::NoPvhEntry);
    }
    match embedded_config(file) {
        Some(text) => defects.extend(options(&Config::parse(&text))),
        None => defects.push(Defect::NoConfig),
    }
    Ok(defects)
}

/// The required options that `config` lacks.
pub fn options(config: &Config) -> Vec<Defect> {
    REQUIRED
        .iter()
        .filter(|option| !config.is_built_in(option.name))
        .map(|&option| Defect::Lacks {
            option,
            value: config.value(option.name).map(str::to_owned),
        })
        .collect()
}

/// The configuration that a kernel built with CONFIG_IKCONFIG carries.
pub fn embedded_config(file: &[u8]) -> Option<String> {
    // The mark may stand elsewhere by chance; only gzip data behind it makes it the real one.
    let mut rest = file;
    loop {
        let at = rest
            .windows(CONFIG_START.len())
            .position(|window| window == CONFIG_START)?;
        rest = rest.get(at + CONFIG_START.len()..)?;
        let mut text = String::new();
        let mut unpacked = GzDecoder::new(rest).take(CONFIG_LIMIT);
        if unpacked.read_to_string(&mut text).is_ok() && text.contains("CONFIG_") {
            return Some(text);
        }
    }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
