//! The runtime's configuration file, changed for the time of a test.

use std::fs;
use std::path::Path;

const FILE: &str = "/etc/caisson/config.toml";

/// A configuration file that goes away again with this value.
#[derive(Debug)]
pub struct Settings {
    before: Option<String>,
}

impl Settings {
    /// Writes `text` to the runtime's configuration file.
    ///
    /// # Panics
    /// Panics when the file cannot be written.
    #[must_use]
    pub fn write(text: &str) -> Self {
        let before = fs::read_to_string(FILE).ok();
        if let Some(directory) = Path::new(FILE).parent() {
            fs::create_dir_all(directory).expect("the testbed's /etc can be written");
        }
        fs::write(FILE, text).expect("the testbed's /etc can be written");
        Self { before }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = match &self.before {
            Some(text) => fs::write(FILE, text),
            None => fs::remove_file(FILE),
        };
    }
}
