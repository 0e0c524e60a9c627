//! What the test guest can be asked for.
//!
//! Each request has a vsock connection of its own to [`SERVICE_PORT`]. It is the first line, as
//! JSON. What follows is said at each request; most are answered by [`crate::Frame`]s.

use std::io::{self, ErrorKind, Read};

use serde::{Deserialize, Serialize};

use crate::step::Step;

/// Port on which the test guest listens.
pub const SERVICE_PORT: u32 = 5000;
/// Port of the host to which the test guest connects when it listens.
pub const HELLO_PORT: u32 = 5001;

/// Longest request in bytes, with its newline.
const MAX_REQUEST: usize = 1 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Run a program; what follows until the end of the stream is its standard input. Answered by
    /// frames, the last one when the program has ended and its output is closed.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Answered by the file's content.
    ReadFile {
        /// Its path in the guest.
        path: String,
    },
    /// Write to a file with one system call, as files of sysfs want it.
    WriteFile {
        /// Its path in the guest.
        path: String,
        /// The new content.
        text: String,
    },
    /// Write a [`crate::Pattern`] from the beginning of a file or a block device on, and wait until
    /// it is on the disk.
    WritePattern {
        /// Its path in the guest.
        path: String,
        /// Which pattern.
        seed: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Check that the beginning of a file or a block device is a [`crate::Pattern`].
    CheckPattern {
        /// Its path in the guest.
        path: String,
        /// Which pattern.
        seed: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Send back everything that follows, and end when it does. No frames.
    Echo,
    /// Send a [`crate::Pattern`] and end. No frames.
    Send {
        /// Which pattern.
        seed: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Take a [`crate::Pattern`] that follows, and answer whether it is the right one.
    Receive {
        /// Which pattern.
        seed: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Connect to a service that sends back everything, as many times as there are sizes; when all
    /// connections are there, send on each the [`crate::Pattern`] of `seed` plus its index, and
    /// compare what comes back.
    Dial {
        /// Where the service is.
        address: Address,
        /// Which pattern on the first connection.
        seed: u64,
        /// How many bytes on each connection.
        sizes: Vec<u64>,
    },
    /// Read or write a block device past the guest's page cache. Answered by [`Took`] as JSON.
    TimeDisk {
        /// Its path in the guest.
        path: String,
        /// What to do.
        work: DiskWork,
        /// How many threads share the work.
        threads: u32,
        /// How many bytes all of them move together.
        bytes: u64,
    },
    /// Give a network interface an IPv4 address and take it up. Answered by nothing.
    SetAddress {
        /// Its name.
        interface: String,
        /// Its address.
        address: [u8; 4],
        /// How many bits of it are the network's.
        prefix: u8,
    },
    /// Connect to a service of the host that times a stream: send so many zeros and wait for the
    /// end, or take what comes and end. Answered by nothing.
    Stream {
        /// Where the service is.
        address: Address,
        /// How many bytes to send; nothing to receive.
        send: Option<u64>,
    },
    /// Answered by the guest physical address, as JSON, of [`crate::ARENA_BYTES`] in one piece that
    /// are there for [`Step`]s to build queues in.
    Arena,
    /// Do these things. Answered by what they read, as JSON.
    Play {
        /// What to do.
        steps: Vec<Step>,
    },
    /// What the last [`Request::Play`] answered, or would have answered: it may have taken the
    /// connection away over which the answer goes.
    Played,
    /// Write everything back and reset the machine.
    Restart,
    /// End PID 1, over which the kernel panics.
    Panic,
}

/// What is done with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskWork {
    /// Read blocks of 256 KiB in their order.
    Read,
    /// Write blocks of 256 KiB in their order, and flush.
    Write,
    /// Read blocks of 4 KiB from all over the disk.
    ReadRandomly,
}

impl DiskWork {
    /// Bytes of one operation.
    #[must_use]
    pub fn block(self) -> u64 {
        match self {
            Self::Read | Self::Write => 256 << 10,
            Self::ReadRandomly => 4 << 10,
        }
    }
}

/// What timed work took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// On the guest's clock, in nanoseconds.
    pub nanoseconds: u64,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Address {
    /// A vsock port of the host.
    Vsock(u32),
    /// A TCP port, as `ADDRESS:PORT`.
    Tcp(String),
}

impl Request {
    /// The line to send.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Reads the line and no byte beyond it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] for what is no request, and what reading answers.
    pub fn read_from(source: &mut impl Read) -> io::Result<Self> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            source.read_exact(&mut byte)?;
            match byte {
                [b'\n'] => break,
                [byte] if line.len() < MAX_REQUEST => line.push(byte),
                _ => return Err(io::Error::new(ErrorKind::InvalidData, "a request too long")),
            }
        }
        serde_json::from_slice(&line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }
}
