//! When the phases of a start were reached.

use std::sync::{Mutex, PoisonError};

use caisson_control::Phase;
use rustix::time::ClockId;

/// Names and `CLOCK_MONOTONIC` times in nanoseconds. A phase counts when it is reached first.
#[derive(Debug, Default)]
pub(crate) struct Phases(Mutex<Vec<(&'static str, u64)>>);

impl Phases {
    /// Notes that a phase is reached now.
    pub(crate) fn now(&self, name: &'static str) {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
        self.at(name, seconds * 1_000_000_000 + nanoseconds);
    }

    /// Notes a phase that the VMM reports.
    pub(super) fn reported(&self, phase: Phase, at_ns: u64) {
        let name = match phase {
            Phase::VmmStarted => "vmm-started",
            Phase::VcpuEntered => "vcpu-entered",
            Phase::AgentStarted => "agent-started",
        };
        self.at(name, at_ns);
    }

    fn at(&self, name: &'static str, at_ns: u64) {
        let mut phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !phases.iter().any(|(known, _)| *known == name) {
            phases.push((name, at_ns));
        }
    }

    /// What was reached so far, in order of time.
    pub(crate) fn all(&self) -> Vec<(String, u64)> {
        let phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = phases
            .iter()
            .map(|&(name, at_ns)| (name.to_owned(), at_ns))
            .collect();
        all.sort_by_key(|&(_, at_ns)| at_ns);
        all
    }
}

#[cfg(test)]
mod tests {
    use caisson_control::Phase;

    use super::Phases;

    #[test]
    fn a_phase_counts_once_and_they_come_in_order_of_time() {
        let phases = Phases::default();
        phases.reported(Phase::VcpuEntered, 20);
        phases.reported(Phase::VmmStarted, 10);
        phases.reported(Phase::VmmStarted, 30);
        phases.now("hello");
        let all = phases.all();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], ("vmm-started".to_owned(), 10));
        assert_eq!(all[1], ("vcpu-entered".to_owned(), 20));
        assert_eq!(all[2].0, "hello");
    }
}
