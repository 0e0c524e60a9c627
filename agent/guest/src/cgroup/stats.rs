//! Reads the counters of a control group. A file that is not there, because the kernel lacks the
//! controller, leaves its counters at zero.

use std::collections::HashMap;

use caisson_protocol::agent;

use super::Cgroup;

/// The value of `key` in a flat keyed file (`key value` per line).
#[must_use]
pub fn flat_value(text: &str, key: &str) -> Option<u64> {
    flat(text)
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

fn flat_map(text: &str) -> HashMap<String, u64> {
    flat(text)
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A file with one number, where `max` means that there is no limit.
fn number(text: Option<&str>, max: u64) -> u64 {
    match text.map(str::trim) {
        Some("max") => max,
        Some(text) => text.parse().unwrap_or(0),
        None => 0,
    }
}

/// `io.stat`: `major:minor key=value ...` per device.
fn io_stat(text: &str) -> Vec<agent::IoStat> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let mut device = agent::IoStat {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                ..Default::default()
            };
            for (key, value) in fields.filter_map(|field| field.split_once('=')) {
                let counter = match key {
                    "rbytes" => &mut device.rbytes,
                    "wbytes" => &mut device.wbytes,
                    "rios" => &mut device.rios,
                    "wios" => &mut device.wios,
                    _ => continue,
                };
                *counter = value.parse().ok()?;
            }
            Some(device)
        })
        .collect()
}

impl Cgroup {
    /// What the container uses now and has used.
    #[must_use]
    pub fn stats(&self) -> agent::StatsResponse {
        let cpu = self.read("cpu.stat").unwrap_or_default();
        let cpu_value = |key| flat_value(&cpu, key).unwrap_or(0);
        agent::StatsResponse {
            cpu: Some(agent::CpuStat {
                usage_usec: cpu_value("usage_usec"),
                user_usec: cpu_value("user_usec"),
                system_usec: cpu_value("system_usec"),
                nr_periods: cpu_value("nr_periods"),
                nr_throttled: cpu_value("nr_throttled"),
                throttled_usec: cpu_value("throttled_usec"),
                ..Default::default()
            })
            .into(),
            memory: Some(agent::MemoryStat {
                usage: number(self.read("memory.current").as_deref(), u64::MAX),
                usage_limit: number(self.read("memory.max").as_deref(), u64::MAX),
                swap_usage: number(self.read("memory.swap.current").as_deref(), u64::MAX),
                swap_limit: number(self.read("memory.swap.max").as_deref(), u64::MAX),
                stat: flat_map(&self.read("memory.stat").unwrap_or_default()),
                events: flat_map(&self.read("memory.events").unwrap_or_default()),
                ..Default::default()
            })
            .into(),
            pids: Some(agent::PidsStat {
                current: number(self.read("pids.current").as_deref(), 0),
                limit: number(self.read("pids.max").as_deref(), 0),
                ..Default::default()
            })
            .into(),
            io: io_stat(&self.read("io.stat").unwrap_or_default()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
#[path = "stats_test.rs"]
mod tests;
