//! How large a machine a pod needs.

use oci_spec::runtime::Spec;

use crate::Config;

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// Number of vCPUs, 1 to 32.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl VmSize {
    /// The size for a pod whose first container is `spec`.
    #[must_use]
    pub fn for_spec(_spec: &Spec, _config: &Config) -> Self {
        Self {
            vcpus: 1,
            memory_mib: 256,
        }
    }
}
