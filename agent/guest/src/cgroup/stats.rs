//! Reads the counters of a control group. A file that is not there, because the kernel lacks the
//! controller, leaves its counters at zero.

use std::collections::HashMap;
use std::fs;

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

/// A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same with `full`.
fn pressure(text: &str) -> agent::Pressure {
    let mut pressure = agent::Pressure::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let kind = fields.next();
        let mut parsed = agent::PressureLine::new();
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => parsed.avg10 = value.parse().unwrap_or_default(),
                "avg60" => parsed.avg60 = value.parse().unwrap_or_default(),
                "avg300" => parsed.avg300 = value.parse().unwrap_or_default(),
                "total" => parsed.total = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        match kind {
            Some("some") => pressure.some = Some(parsed).into(),
            Some("full") => pressure.full = Some(parsed).into(),
            _ => {}
        }
    }
    pressure
}

/// `rdma.current` or `rdma.max`: `device hca_handle=n hca_object=n` per device.
fn rdma_stat(text: &str) -> Vec<agent::RdmaStat> {
    let count = |value: &str| value.parse().unwrap_or(u32::MAX);
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let mut device = agent::RdmaStat {
                device: fields.next()?.to_owned(),
                ..Default::default()
            };
            for (key, value) in fields.filter_map(|field| field.split_once('=')) {
                match key {
                    "hca_handle" => device.hca_handles = count(value),
                    "hca_object" => device.hca_objects = count(value),
                    _ => {}
                }
            }
            Some(device)
        })
        .collect()
}

impl Cgroup {
    /// What the container uses now and has used.
    #[must_use]
    pub fn stats(&self) -> agent::StatsResponse {
        let text = |file| self.read(file).unwrap_or_default();
        agent::StatsResponse {
            cpu: Some(self.cpu_stat()).into(),
            memory: Some(self.memory_stat()).into(),
            pids: Some(agent::PidsStat {
                current: number(self.read("pids.current").as_deref(), u64::MAX),
                limit: number(self.read("pids.max").as_deref(), u64::MAX),
                ..Default::default()
            })
            .into(),
            io: io_stat(&text("io.stat")),
            io_pressure: self.pressure("io").into(),
            hugetlb: self.hugetlb_stat(),
            rdma_current: rdma_stat(&text("rdma.current")),
            rdma_limit: rdma_stat(&text("rdma.max")),
            ..Default::default()
        }
    }

    fn cpu_stat(&self) -> agent::CpuStat {
        let text = self.read("cpu.stat").unwrap_or_default();
        let value = |key| flat_value(&text, key).unwrap_or(0);
        agent::CpuStat {
            usage_usec: value("usage_usec"),
            user_usec: value("user_usec"),
            system_usec: value("system_usec"),
            nr_periods: value("nr_periods"),
            nr_throttled: value("nr_throttled"),
            throttled_usec: value("throttled_usec"),
            nr_bursts: value("nr_bursts"),
            burst_usec: value("burst_usec"),
            pressure: self.pressure("cpu").into(),
            ..Default::default()
        }
    }

    fn memory_stat(&self) -> agent::MemoryStat {
        let value = |file| number(self.read(file).as_deref(), u64::MAX);
        agent::MemoryStat {
            usage: value("memory.current"),
            usage_limit: value("memory.max"),
            peak: value("memory.peak"),
            swap_usage: value("memory.swap.current"),
            swap_limit: value("memory.swap.max"),
            swap_peak: value("memory.swap.peak"),
            stat: flat_map(&self.read("memory.stat").unwrap_or_default()),
            events: flat_map(&self.read("memory.events").unwrap_or_default()),
            pressure: self.pressure("memory").into(),
            ..Default::default()
        }
    }

    fn pressure(&self, controller: &str) -> Option<agent::Pressure> {
        let text = self.read(&format!("{controller}.pressure"))?;
        Some(pressure(&text))
    }

    fn hugetlb_stat(&self) -> Vec<agent::HugetlbStat> {
        let mut sizes: Vec<_> = fs::read_dir(self.path())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
                // hugetlb.2MB.rsvd.current counts what is reserved, which is no size.
                (!size.contains('.')).then(|| size.to_owned())
            })
            .collect();
        sizes.sort();
        let value = |size: &str, file: &str| {
            let text = self.read(&format!("hugetlb.{size}.{file}"));
            number(text.as_deref(), u64::MAX)
        };
        sizes
            .into_iter()
            .map(|size| agent::HugetlbStat {
                current: value(&size, "current"),
                limit: value(&size, "max"),
                failures: self
                    .read(&format!("hugetlb.{size}.events"))
                    .and_then(|events| flat_value(&events, "max"))
                    .unwrap_or(0),
                page_size: size,
                ..Default::default()
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "stats_test.rs"]
mod tests;
