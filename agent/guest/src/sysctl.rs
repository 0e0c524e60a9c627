//! Kernel parameters and host name of the pod, which in a virtual machine are the guest's own.

use std::path::{Path, PathBuf};

use crate::error::AgentError;
use crate::kernel_file;

/// Where the kernel has its parameters.
const ROOT: &str = "/proc/sys";

/// Sets parameters of the guest's own namespaces, in the given order.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for a name that is none or a value that the kernel refuses.
pub fn set(parameters: &[(String, String)]) -> Result<(), AgentError> {
    for (name, value) in parameters {
        let path = path(name)?;
        kernel_file::set(&path, value).map_err(|error| {
            AgentError::InvalidArgument(format!("cannot set sysctl {name} to {value:?}: {error}"))
        })?;
    }
    Ok(())
}

/// The file of a parameter. Dots and slashes separate; if there is a slash, a dot is part of a name
/// (`net/ipv4/conf/eth0.1/forwarding`).
fn path(name: &str) -> Result<PathBuf, AgentError> {
    let separator = if name.contains('/') { '/' } else { '.' };
    let mut path = PathBuf::from(ROOT);
    for part in name.split(separator) {
        if part.is_empty() || part.starts_with('.') {
            return Err(AgentError::InvalidArgument(format!(
                "{name:?} is no kernel parameter"
            )));
        }
        path.push(part);
    }
    debug_assert!(path.starts_with(Path::new(ROOT)));
    Ok(path)
}

/// Names the guest.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for a name the kernel refuses, such as one of more than 64 bytes.
pub fn set_hostname(name: &str) -> Result<(), AgentError> {
    rustix::system::sethostname(name.as_bytes()).map_err(|error| {
        AgentError::InvalidArgument(format!("cannot set the host name {name:?}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_files_below_proc_sys() {
        let cases = [
            ("vm.max_map_count", "/proc/sys/vm/max_map_count"),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
        ];
        for (name, file) in cases {
            assert_eq!(path(name).unwrap(), Path::new(file));
        }
    }

    #[test]
    fn no_name_leads_out_of_proc_sys() {
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a..b",
            "kernel.",
            "a//b",
        ] {
            assert!(path(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_parameter_that_is_not_there_is_an_error_by_name() {
        let error = set(&[("kernel.caisson_none".to_owned(), "1".to_owned())]).unwrap_err();
        assert!(error.to_string().contains("kernel.caisson_none"));
    }
}
