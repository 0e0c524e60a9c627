//! Resource usage in the form that containerd's clients know: the metrics of cgroup v2, or those of
//! v1 on a host that has only that. The guest's hierarchy is v2 in any case.

mod v1;
mod v2;

use caisson_protocol::agent::StatsResponse;
use protobuf::well_known_types::any::Any;
use rustix::fs::statfs;

use crate::event::any;

/// What statfs(2) says of a cgroup v2 file system (`CGROUP2_SUPER_MAGIC`).
const CGROUP2: i64 = 0x6367_7270;

/// The kind of control groups that the host's clients look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// v1, alone or beside v2.
    V1,
    /// v2 alone.
    V2,
}

impl Hierarchy {
    /// What is mounted where containerd and its clients look.
    pub(crate) fn of_host() -> Self {
        Self::at("/sys/fs/cgroup")
    }

    fn at(directory: &str) -> Self {
        match statfs(directory) {
            Ok(status) if status.f_type != CGROUP2 => Self::V1,
            _ => Self::V2,
        }
    }

    /// The metrics message for what the agent measured. Guest data: numbers and names of devices,
    /// passed on as they are.
    pub(crate) fn metrics(self, stats: &StatsResponse) -> Any {
        match self {
            Self::V1 => any("io.containerd.cgroups.v1.Metrics", &v1::metrics(stats)),
            Self::V2 => any("io.containerd.cgroups.v2.Metrics", &v2::metrics(stats)),
        }
    }
}

#[cfg(test)]
#[path = "metrics_test.rs"]
mod tests;
