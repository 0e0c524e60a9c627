//! What every VMM is to the benchmark.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use caisson_machine_tests::{GuestProcess, Output, Request, SERVICE_PORT};

/// One of those that take turns.
pub(crate) struct Contender<'a> {
    /// For people.
    pub(crate) name: String,
    /// Starts the VMM, and it the guest.
    pub(crate) start: Box<dyn Fn() -> Box<dyn Machine + 'a> + 'a>,
    /// The port to which the guest's first program connects; nothing if the VMM has no vsock that
    /// this kernel can use.
    pub(crate) hello: Option<u32>,
}

/// A running machine, which ends with this value.
pub(crate) trait Machine {
    /// The VMM's process.
    fn pid(&self) -> u32;

    /// Waits for the guest's next connection to a port of the host.
    fn accept(&self, port: u32) -> File;

    /// Connects to a port of the guest.
    fn connect(&self, port: u32) -> File;
}

/// Sends a request to the test guest and returns the stream on which it answers.
pub(crate) fn ask(machine: &dyn Machine, request: &Request) -> GuestProcess {
    use std::io::Write;
    let mut stream = machine.connect(SERVICE_PORT);
    let sent = stream.write_all(&request.to_line());
    sent.unwrap_or_else(|error| panic!("{request:?}: {error}"));
    // Whatever its family is: a stream socket behaves like any other.
    GuestProcess::new(OwnedFd::from(stream).into())
}

/// The test guest's answer to a request.
pub(crate) fn answer(machine: &dyn Machine, request: &Request) -> Output {
    ask(machine, request).finish()
}

/// What the guest boots from, beside the installed kernel.
pub(crate) struct Guest {
    initrd: File,
}

impl Guest {
    /// A guest with this initial root file system.
    pub(crate) fn of(initrd: File) -> Self {
        Self { initrd }
    }

    /// Where every process finds it, as long as this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        let (process, number) = (std::process::id(), self.initrd.as_raw_fd());
        format!("/proc/{process}/fd/{number}").into()
    }

    /// A file of one's own.
    pub(crate) fn open(&self) -> File {
        File::open(self.path()).expect("it is open already")
    }
}
