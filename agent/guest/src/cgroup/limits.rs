//! Turns the limits of the OCI specification (config-linux.md, "Control groups"), which speak of
//! cgroup v1, into the files of cgroup v2.

mod conversion;

use std::io;

use oci_spec::runtime::LinuxResources;

use self::conversion::settings;

use super::Cgroup;
use crate::error::AgentError;

/// The default of the kernel, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// One value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// The field of the specification it comes from, below `linux.resources`.
    field: String,
    file: String,
    value: String,
    /// Whether the container may go without it: the guest's kernel or devices may not have it, and
    /// the promise of the limit is kept nevertheless.
    optional: bool,
}

/// What a group has now of what the specification names in parts: a change of one part keeps the
/// other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Current {
    /// `memory.max`, unless that is `max`.
    memory_limit: Option<i64>,
    /// `memory.current`.
    memory_used: i64,
    /// The quota of `cpu.max`, in microseconds or `max`.
    cpu_quota: String,
    /// Its period.
    cpu_period: u64,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            memory_limit: None,
            memory_used: 0,
            cpu_quota: "max".to_owned(),
            cpu_period: DEFAULT_PERIOD,
        }
    }
}

impl Cgroup {
    /// Sets the limits that `resources` names, of a new container or of one that runs; the others
    /// stay as they are. If one is refused, none is changed.
    ///
    /// Device rules are applied by [`Cgroup::restrict_devices`]. Real-time scheduling and kernel
    /// memory have no equivalent in cgroup v2 and are left out, as runc does.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] for a value that cannot be, or that the kernel refuses; it
    /// names the field.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), AgentError> {
        let settings = settings(resources, &self.current())?;
        let mut before = Vec::new();
        for setting in &settings {
            // A group has no file of a controller that its parent does not pass on.
            match self.read(&setting.file) {
                Some(value) => before.push(value),
                None if setting.optional => before.push(String::new()),
                None => return Err(missing(setting)),
            }
        }
        for (index, setting) in settings.iter().enumerate() {
            match self.write(&setting.file, &setting.value) {
                Ok(()) => {}
                Err(_) if setting.optional => {}
                Err(error) => {
                    let written = settings.iter().zip(&before).take(index);
                    self.restore(written.rev());
                    return Err(refused(setting, &error));
                }
            }
        }
        Ok(())
    }

    fn current(&self) -> Current {
        let number = |file| self.read(file).and_then(|text| text.trim().parse().ok());
        let cpu = self.read("cpu.max").unwrap_or_default();
        let mut cpu = cpu.split_whitespace();
        let default = Current::default();
        Current {
            memory_limit: number("memory.max"),
            memory_used: number("memory.current").unwrap_or_default(),
            cpu_quota: cpu.next().map_or(default.cpu_quota, str::to_owned),
            cpu_period: cpu
                .next()
                .and_then(|period| period.parse().ok())
                .unwrap_or(default.cpu_period),
        }
    }

    /// Writes back what was there, newest change first.
    fn restore<'a>(&self, written: impl Iterator<Item = (&'a Setting, &'a String)>) {
        for (setting, before) in written {
            // Files with a line for each device take one line at a time. An empty one had no
            // limits, and an empty line says so to all but this one.
            let lines = match (before.trim(), setting.file.as_str()) {
                ("", "io.max") => vec![unlimited_io(&setting.value)],
                ("", _) => vec!["\n".to_owned()],
                (text, _) => text.lines().map(str::to_owned).collect(),
            };
            for line in lines {
                // The kernel took this value before, and nothing better can be done if not.
                let _ = self.write(&setting.file, &line);
            }
        }
    }
}

/// The line for `io.max` that takes the limits of a device away.
fn unlimited_io(line: &str) -> String {
    let device = line.split(' ').next().unwrap_or_default();
    format!("{device} rbps=max wbps=max riops=max wiops=max")
}

fn missing(setting: &Setting) -> AgentError {
    let Setting {
        field, file, value, ..
    } = setting;
    AgentError::InvalidArgument(format!(
        "linux.resources.{field}: the guest kernel has no {file}, so the limit {value} cannot be \
         kept"
    ))
}

fn refused(setting: &Setting, error: &io::Error) -> AgentError {
    let Setting {
        field, file, value, ..
    } = setting;
    AgentError::InvalidArgument(format!(
        "linux.resources.{field}: the kernel refuses {value:?} for {file}: {error}"
    ))
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod tests;
