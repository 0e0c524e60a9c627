//! What disks, networks and vsock are given to do.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use caisson_machine_tests::{Address, DiskWork, Request, Took};
use rustix::net::Shutdown;

use crate::contender::{Machine, answer, ask};
use crate::streams::wait_for;
use crate::transfer::STREAM_PORT;

const MIB: u64 = 1 << 20;

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
    pub(crate) fn name(self) -> String {
        let direction = |to_guest| {
            if to_guest {
                "to the guest"
            } else {
                "to the host"
            }
        };
        match self {
            Self::Disk { work, threads } => {
                let (what, unit) = match work {
                    DiskWork::Read => ("read, blocks of 256 KiB", "MiB/s"),
                    DiskWork::Write => ("write and flush, blocks of 256 KiB", "MiB/s"),
                    DiskWork::ReadRandomly => ("random read, blocks of 4 KiB", "IOPS"),
                };
                let threads = if threads == 1 {
                    "1 thread".to_owned()
                } else {
                    format!("{threads} threads")
                };
                format!("disk, {what}, {threads}, {unit}")
            }
            Self::Network { to_guest } => format!("network (TCP), {}, MiB/s", direction(to_guest)),
            Self::Vsock { to_guest } => format!("vsock, {}, MiB/s", direction(to_guest)),
        }
    }

    /// Bytes that are moved.
    fn bytes(self) -> u64 {
        match self {
            Self::Disk {
                work: DiskWork::ReadRandomly,
                ..
            } => 16 * MIB,
            Self::Disk { .. } | Self::Network { .. } | Self::Vsock { .. } => 64 * MIB,
        }
    }

    /// Does it once and answers how much a second; nothing if the guest has no such device.
    pub(crate) fn rate(self, machine: &dyn Machine, host: [u8; 4]) -> Option<f64> {
        let took = match self {
            Self::Disk { work, threads } => self.disk_time(machine, work, threads)?,
            Self::Network { to_guest } => self.network_time(machine, host, to_guest)?,
            Self::Vsock { to_guest } => {
                self.stream_time(machine, Address::Vsock(STREAM_PORT), to_guest, || {
                    machine.accept(STREAM_PORT)
                })
            }
        };
        let unit = match self {
            Self::Disk {
                work: work @ DiskWork::ReadRandomly,
                ..
            } => work.block(),
            _ => MIB,
        };
        Some((self.bytes() / unit) as f64 / took.as_secs_f64())
    }

    fn disk_time(self, machine: &dyn Machine, work: DiskWork, threads: u32) -> Option<Duration> {
        let output = answer(
            machine,
            &Request::TimeDisk {
                path: "/dev/vda".into(),
                work,
                threads,
                bytes: self.bytes(),
            },
        );
        if output.errors().contains("No such file") {
            return None;
        }
        let took: Took = serde_json::from_slice(&output.ok().stdout).expect("it is a time");
        Some(Duration::from_nanos(took.nanoseconds))
    }

    fn network_time(
        self,
        machine: &dyn Machine,
        host: [u8; 4],
        to_guest: bool,
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
            self.stream_time(machine, Address::Tcp(address), to_guest, || {
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
        accept: impl FnOnce() -> File,
    ) -> Duration {
        let send = (!to_guest).then_some(self.bytes());
        let guest = ask(machine, &Request::Stream { address, send });
        let mut connection = accept();
        let mut space = vec![0; 64 * 1024];
        let begun = Instant::now();
        if to_guest {
            for _ in 0..self.bytes() / space.len() as u64 {
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
        assert_eq!(received, send.unwrap_or(0), "{}", self.name());
        drop(connection);
        let _ = guest.finish().ok();
        took
    }
}
