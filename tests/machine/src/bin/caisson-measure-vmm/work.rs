//! What disks, networks and vsock are given to do.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use caisson_machine_tests::{Address, DiskWork, Request, Samples, Took};
use rustix::net::Shutdown;

use crate::contender::{Machine, answer, ask};
use crate::cpu_clock;
use crate::start::exits;
use crate::streams::wait_for;
use crate::transfer::STREAM_PORT;

const MIB: u64 = 1 << 20;

/// What the outer machine's clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Time; what is measured is a speed.
    Time,
    /// Instructions, one a nanosecond; what is measured is a cost, and little data is enough.
    Instructions,
}

impl Clock {
    /// As the testbed's program names it.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "instructions" => Self::Instructions,
            _ => Self::Time,
        }
    }

    /// The middle one and the best.
    pub(crate) fn cell(self, samples: &Samples) -> String {
        let (best, digits) = match self {
            Self::Time => (samples.max(), 0),
            Self::Instructions => (samples.min(), 2),
        };
        match (samples.median(), best) {
            (Some(median), Some(best)) => format!("{median:.digits$} / {best:.digits$}"),
            _ => "not there".to_owned(),
        }
    }

    /// How many times better the first is.
    pub(crate) fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Time => ours / theirs,
            Self::Instructions => theirs / ours,
        }
    }
}

/// What it took to move something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Units a second, or millions of instructions a unit; a unit is a MiB or an operation.
    pub(crate) speed: f64,
    /// Exits of the vCPU for each unit.
    pub(crate) exits: f64,
    /// Processor time of the VMM's process with its guest for each unit, in microseconds.
    pub(crate) processor: f64,
}

/// What is moved at once, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// In the guest, past its page cache.
    Disk { work: DiskWork, threads: u32 },
    /// A TCP connection over the tap.
    Network { to_guest: bool },
    /// A vsock connection.
    Vsock { to_guest: bool },
}

/// Everything, in the order of the table.
pub(crate) const ALL: [Work; 10] = [
    disk(DiskWork::Read, 1),
    disk(DiskWork::Read, 4),
    disk(DiskWork::Write, 1),
    disk(DiskWork::Write, 4),
    disk(DiskWork::ReadRandomly, 1),
    disk(DiskWork::ReadRandomly, 4),
    Work::Network { to_guest: false },
    Work::Network { to_guest: true },
    Work::Vsock { to_guest: false },
    Work::Vsock { to_guest: true },
];

const fn disk(work: DiskWork, threads: u32) -> Work {
    Work::Disk { work, threads }
}

impl Work {
    /// For people, with the unit.
    pub(crate) fn name(self, clock: Clock) -> String {
        let direction = |to_guest| {
            if to_guest {
                "to the guest"
            } else {
                "to the host"
            }
        };
        let what = match self {
            Self::Disk { work, threads } => {
                let what = match work {
                    DiskWork::Read => "read, blocks of 256 KiB",
                    DiskWork::Write => "write and flush, blocks of 256 KiB",
                    DiskWork::ReadRandomly => "random read, blocks of 4 KiB",
                };
                let threads = if threads == 1 {
                    "1 thread".to_owned()
                } else {
                    format!("{threads} threads")
                };
                format!("disk, {what}, {threads}")
            }
            Self::Network { to_guest } => format!("network (TCP), {}", direction(to_guest)),
            Self::Vsock { to_guest } => format!("vsock, {}", direction(to_guest)),
        };
        let unit = match (clock, self.is_random()) {
            (Clock::Time, true) => "IOPS",
            (Clock::Time, false) => "MiB/s",
            (Clock::Instructions, true) => "million instructions an operation",
            (Clock::Instructions, false) => "million instructions a MiB",
        };
        format!("{what}, {unit}")
    }

    fn is_random(self) -> bool {
        let random = DiskWork::ReadRandomly;
        matches!(self, Self::Disk { work, .. } if work == random)
    }

    /// Bytes that are moved.
    fn bytes(self, clock: Clock) -> u64 {
        match (clock, self.is_random()) {
            (Clock::Time, true) => 16 * MIB,
            (Clock::Time, false) => 64 * MIB,
            (Clock::Instructions, true) => MIB,
            (Clock::Instructions, false) => 8 * MIB,
        }
    }

    /// Does it once and answers what it took; nothing if the guest has no such device.
    pub(crate) fn cost(self, machine: &dyn Machine, host: [u8; 4], clock: Clock) -> Option<Cost> {
        let bytes = self.bytes(clock);
        let spent = || {
            let processor = cpu_clock::used_by(machine.pid()).expect("the VMM runs");
            (processor, exits(machine.pid()))
        };
        let (processor_before, exits_before) = spent();
        let took = match self {
            Self::Disk { work, threads } => disk_time(machine, work, threads, bytes)?,
            Self::Network { to_guest } => self.network_time(machine, host, to_guest, bytes)?,
            Self::Vsock { to_guest } => {
                let address = Address::Vsock(STREAM_PORT);
                self.stream_time(machine, address, to_guest, bytes, || {
                    machine.accept(STREAM_PORT)
                })
            }
        };
        let (processor_after, exits_after) = spent();
        let unit = match self {
            Self::Disk { work, .. } if self.is_random() => work.block(),
            _ => MIB,
        };
        let units = (bytes / unit) as f64;
        Some(Cost {
            speed: match clock {
                Clock::Time => units / took.as_secs_f64(),
                Clock::Instructions => took.as_secs_f64() * 1000.0 / units,
            },
            exits: (exits_after - exits_before) as f64 / units,
            processor: (processor_after - processor_before).as_secs_f64() * 1e6 / units,
        })
    }

    fn network_time(
        self,
        machine: &dyn Machine,
        host: [u8; 4],
        to_guest: bool,
        bytes: u64,
    ) -> Option<Duration> {
        let [a, b, c, _] = host;
        let output = answer(
            machine,
            &Request::SetAddress {
                interface: "eth0".into(),
                address: [a, b, c, 2],
                prefix: 24,
            },
        );
        if output.errors().contains("No such device") {
            return None;
        }
        let _ = output.ok();
        let listener = TcpListener::bind((std::net::Ipv4Addr::from(host), 0));
        let listener = listener.expect("the tap has this address");
        let address = listener.local_addr().expect("it is bound").to_string();
        Some(
            self.stream_time(machine, Address::Tcp(address), to_guest, bytes, || {
                wait_for(&listener, String::new);
                let (connection, _) = listener.accept().expect("the guest is there");
                OwnedFd::from(connection).into()
            }),
        )
    }

    /// From the moment at which both ends are there to that at which the receiver has everything.
    fn stream_time(
        self,
        machine: &dyn Machine,
        address: Address,
        to_guest: bool,
        bytes: u64,
        accept: impl FnOnce() -> File,
    ) -> Duration {
        let send = (!to_guest).then_some(bytes);
        let guest = ask(machine, &Request::Stream { address, send });
        let mut connection = accept();
        let mut space = vec![0; 64 * 1024];
        let begun = Instant::now();
        if to_guest {
            for _ in 0..bytes / space.len() as u64 {
                connection.write_all(&space).expect("the guest takes it");
            }
            rustix::net::shutdown(&connection, Shutdown::Write).expect("it is open");
        }
        let mut received = 0;
        loop {
            // To the guest, it is the end that tells that all has come.
            match connection.read(&mut space).expect("the guest is there") {
                0 => break,
                count => received += count as u64,
            }
        }
        let took = begun.elapsed();
        assert_eq!(received, send.unwrap_or(0), "{self:?}");
        drop(connection);
        let _ = guest.finish().ok();
        took
    }
}

/// As the guest has measured it.
fn disk_time(machine: &dyn Machine, work: DiskWork, threads: u32, bytes: u64) -> Option<Duration> {
    let path = "/dev/vda".into();
    let output = answer(
        machine,
        &Request::TimeDisk {
            path,
            work,
            threads,
            bytes,
        },
    );
    if output.errors().contains("No such file") {
        return None;
    }
    let took: Took = serde_json::from_slice(&output.ok().stdout).expect("it is a time");
    Some(Duration::from_nanos(took.nanoseconds))
}
