//! The moments of a start, as the host's kernel sees them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use caisson_machine_tests::PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// An instance of its own, so that nobody else's tracing is disturbed.
const INSTANCE: &str = "/sys/kernel/tracing/instances/caisson-measure";

/// Tracepoints for the execution of a program and for a guest's write to the phase port.
pub(crate) struct Trace {
    pipe: BufReader<File>,
}

/// When a VMM was executed, and when its guest's first program marked its start, on the host's
/// monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) executed: Duration,
    pub(crate) init: Duration,
}

impl Trace {
    /// Begins to trace.
    pub(crate) fn begin() -> Self {
        // What a benchmark that was killed has left.
        let _ = fs::remove_dir(INSTANCE);
        fs::create_dir(INSTANCE).expect("tracefs is mounted");
        for (file, text) in [
            ("trace_clock", "mono"),
            ("buffer_size_kb", "64"),
            ("events/kvm/kvm_pio/filter", "port==0x3f0"),
            ("events/kvm/kvm_pio/enable", "1"),
            ("events/sched/sched_process_exec/enable", "1"),
        ] {
            let path = PathBuf::from(INSTANCE).join(file);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let pipe = File::open(PathBuf::from(INSTANCE).join("trace_pipe"));
        Self {
            pipe: BufReader::new(pipe.expect("a trace can be read")),
        }
    }

    /// Waits for the mark of the guest whose VMM is `pid`. Nothing that was traced earlier counts.
    pub(crate) fn start_of(&mut self, pid: u32) -> Start {
        let mut executed = None;
        loop {
            match Event::of(&self.line()) {
                Some(Event::Executed { pid: found, at }) if found == pid => executed = Some(at),
                Some(Event::Marked { at }) => {
                    if let Some(executed) = executed {
                        return Start { executed, init: at };
                    }
                }
                _ => {}
            }
        }
    }

    fn line(&mut self) -> String {
        let patience = Timespec {
            tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        if self.pipe.buffer().is_empty() {
            let mut wait = [PollFd::new(self.pipe.get_ref(), PollFlags::IN)];
            let ready = poll(&mut wait, Some(&patience));
            assert!(matches!(ready, Ok(1)), "no guest has started: {ready:?}");
        }
        let mut line = String::new();
        match self.pipe.read_line(&mut line) {
            Ok(_) => line,
            Err(error) if error.kind() == ErrorKind::Interrupted => String::new(),
            Err(error) => panic!("the trace: {error}"),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It goes when its pipe is closed; until then it is disabled.
        let _ = fs::write(PathBuf::from(INSTANCE).join("tracing_on"), "0");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Executed { pid: u32, at: Duration },
    Marked { at: Duration },
}

impl Event {
    /// Reads a line such as ` name-12 [000] ..... 5.000123: kvm_pio: pio_write at 0x3f0 …`.
    fn of(line: &str) -> Option<Self> {
        let after = |mark: &str| line.split_once(mark);
        if let Some((before, _)) = after(": kvm_pio: pio_write ") {
            return Some(Self::Marked { at: time(before)? });
        }
        let (before, rest) = after(": sched_process_exec: ")?;
        let mut words = rest.split_whitespace();
        let pid = words.find_map(|word| word.strip_prefix("pid="))?;
        Some(Self::Executed {
            pid: pid.parse().ok()?,
            at: time(before)?,
        })
    }
}

/// The last word of what stands before an event, in seconds with six digits behind the point.
fn time(before: &str) -> Option<Duration> {
    let (seconds, micros) = before.split_whitespace().last()?.split_once('.')?;
    let micros: u64 = micros.parse().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros))
}

#[cfg(test)]
#[path = "trace_test.rs"]
mod tests;
