//! The CPUs of the machine: the host makes them, the guest's kernel uses those that are online
//! (kernel documentation: core-api/cpu_hotplug.rst).

use std::fs;
use std::io;
use std::path::Path;

use crate::error::AgentError;

const CPUS: &str = "/sys/devices/system/cpu";

/// Brings the first `count` CPUs online and takes the others offline.
///
/// # Errors
/// [`AgentError::InvalidArgument`] when the machine cannot have that many;
/// [`AgentError::Internal`] when the kernel refuses one: those before it are as wanted.
pub fn set_online(count: u32) -> Result<(), AgentError> {
    set_online_below(Path::new(CPUS), count)
}

fn set_online_below(cpus: &Path, count: u32) -> Result<(), AgentError> {
    let possible = possible(cpus)?;
    if count == 0 || count > possible {
        return Err(AgentError::InvalidArgument(format!(
            "{count} CPUs cannot be online in a machine for 1 to {possible}"
        )));
    }
    for cpu in 0..possible {
        let wanted = if cpu < count { "1" } else { "0" };
        let file = cpus.join(format!("cpu{cpu}/online"));
        let now = match fs::read_to_string(&file) {
            Ok(now) => now,
            // The first CPU has no such file: it is always online.
            Err(error) if error.kind() == io::ErrorKind::NotFound && cpu == 0 => continue,
            Err(error) => return Err(refused(cpu, &error)),
        };
        if now.trim() != wanted {
            fs::write(&file, wanted).map_err(|error| refused(cpu, &error))?;
        }
    }
    Ok(())
}

/// How many CPUs the kernel was told of: `0` or `0-3`.
fn possible(cpus: &Path) -> Result<u32, AgentError> {
    let file = cpus.join("possible");
    let text = fs::read_to_string(&file).map_err(|error| {
        AgentError::Internal(format!("cannot read {}: {error}", file.display()))
    })?;
    let last = text.trim().rsplit('-').next().unwrap_or_default();
    let last: u32 = last.parse().map_err(|error| {
        AgentError::Internal(format!("{} says {text:?}: {error}", file.display()))
    })?;
    Ok(last.saturating_add(1))
}

fn refused(cpu: u32, error: &io::Error) -> AgentError {
    AgentError::Internal(format!(
        "the guest's kernel does not switch CPU {cpu}: {error}"
    ))
}

#[cfg(test)]
#[path = "cpus_test.rs"]
mod tests;
