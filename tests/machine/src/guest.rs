//! What the test guest does for a test.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::guest_process::{GuestProcess, Output};
use crate::machine::TestMachine;
use crate::pattern::{Comparison, Pattern};
use crate::request::{Address, Request, SERVICE_PORT};

impl TestMachine {
    /// Sends a request to the guest; the stream carries what the request says.
    ///
    /// # Panics
    /// Panics when the guest does not take it.
    #[must_use]
    #[track_caller]
    pub fn ask_guest(&self, request: &Request) -> UnixStream {
        let mut stream = self.connect(SERVICE_PORT);
        let sent = stream.write_all(&request.to_line());
        sent.unwrap_or_else(|error| panic!("{request:?}: {error}"));
        stream
    }

    /// Sends a request that is answered by frames, and returns the answer.
    ///
    /// # Panics
    /// Panics when there is none.
    #[must_use]
    #[track_caller]
    pub fn answer(&self, request: &Request) -> Output {
        GuestProcess::new(self.ask_guest(request)).finish()
    }

    /// Starts a program in the guest.
    ///
    /// # Panics
    /// Panics when the guest does not take the request.
    #[must_use]
    #[track_caller]
    pub fn spawn(&self, argv: &[&str]) -> GuestProcess {
        let argv = argv.iter().map(ToString::to_string).collect();
        GuestProcess::new(self.ask_guest(&Request::Run { argv }))
    }

    /// Runs a program in the guest to its end, with nothing to read.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[must_use]
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Output {
        self.spawn(argv).finish()
    }

    /// Runs a script of the shell in the guest and returns what it prints.
    ///
    /// # Panics
    /// Panics when a command of it fails.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.run(&["sh", "-ec", script]).ok().text()
    }

    /// The text of a file of the guest.
    ///
    /// # Panics
    /// Panics when it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn read_file(&self, path: &str) -> String {
        let path = path.to_owned();
        self.answer(&Request::ReadFile { path }).ok().text()
    }

    /// Writes to a file of the guest.
    ///
    /// # Panics
    /// Panics when it cannot be written.
    #[track_caller]
    pub fn write_file(&self, path: &str, text: &str) {
        let request = Request::WriteFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let _ = self.answer(&request).ok();
    }

    /// Writes the first bytes of a pattern to a file or block device of the guest, down to the
    /// disk.
    ///
    /// # Panics
    /// Panics when it cannot be written.
    #[track_caller]
    pub fn write_pattern(&self, path: &str, seed: u64, bytes: u64) {
        let path = path.to_owned();
        let _ = self
            .answer(&Request::WritePattern { path, seed, bytes })
            .ok();
    }

    /// Makes sure that a file or block device of the guest begins with the first bytes of a
    /// pattern. What is in the page cache is not read from the disk again; a block device that
    /// nobody has open has nothing there.
    ///
    /// # Panics
    /// Panics when it is something else.
    #[track_caller]
    pub fn check_pattern(&self, path: &str, seed: u64, bytes: u64) {
        let path = path.to_owned();
        let _ = self
            .answer(&Request::CheckPattern { path, seed, bytes })
            .ok();
    }

    /// Sends the first bytes of a pattern to the guest and back again on a connection of their own.
    ///
    /// # Panics
    /// Panics when something else comes back, or nothing.
    #[track_caller]
    pub fn echo(&self, seed: u64, bytes: u64) {
        echo_on(&self.ask_guest(&Request::Echo), seed, bytes);
    }

    /// Lets the guest connect to a service that sends back everything, and compare. See
    /// [`Request::Dial`].
    ///
    /// # Panics
    /// Panics when one connection goes wrong.
    #[track_caller]
    pub fn dial(&self, address: Address, seed: u64, sizes: &[u64]) {
        let sizes = sizes.to_vec();
        let request = Request::Dial {
            address,
            seed,
            sizes,
        };
        let _ = self.answer(&request).ok();
    }

    /// Makes the guest look for new devices on its bus. They are usable afterwards.
    ///
    /// # Panics
    /// Panics when it does not.
    #[track_caller]
    pub fn rescan(&self) {
        self.write_file("/sys/bus/pci/rescan", "1");
    }

    /// Makes the guest let go of the device in a slot.
    ///
    /// # Panics
    /// Panics when it does not.
    #[track_caller]
    pub fn remove(&self, slot: u8) {
        let path = format!("/sys/bus/pci/devices/0000:00:{slot:02x}.0/remove");
        self.write_file(&path, "1");
    }

    /// Makes the guest use a vCPU, or leave it alone.
    ///
    /// # Panics
    /// Panics when it does not.
    #[track_caller]
    pub fn set_online(&self, cpu: u8, online: bool) {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        self.write_file(&path, if online { "1" } else { "0" });
    }

    /// The CPUs that the guest uses, for example `0-3`.
    ///
    /// # Panics
    /// Panics when it does not say.
    #[must_use]
    #[track_caller]
    pub fn online(&self) -> String {
        self.read_file("/sys/devices/system/cpu/online")
    }

    /// A number of the guest's `/proc/meminfo`, in KiB.
    ///
    /// # Panics
    /// Panics when it does not say.
    #[must_use]
    #[track_caller]
    pub fn meminfo(&self, name: &str) -> u64 {
        let text = self.read_file("/proc/meminfo");
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let number = lines
            .find(|(found, _)| *found == name)
            .and_then(|(_, rest)| rest.trim().trim_end_matches(" kB").parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }

    /// The guest's name for a disk: `/dev/vda` or another. Needs its root.
    ///
    /// # Panics
    /// Panics when it has no disk with this id.
    #[must_use]
    #[track_caller]
    pub fn disk_path(&self, id: &str) -> String {
        let script = format!("cd /sys/block; grep -lx {id} vd*/serial");
        let found = self.shell(&script);
        let name = found.split('/').next().unwrap_or_default();
        format!("/dev/{name}")
    }

    /// Resets the machine from within.
    ///
    /// # Panics
    /// Panics when the guest does not take the request.
    #[track_caller]
    pub fn restart_guest(&self) {
        // No answer will come.
        drop(self.ask_guest(&Request::Restart));
    }

    /// Makes the guest's kernel panic.
    ///
    /// # Panics
    /// Panics when the guest does not take the request.
    #[track_caller]
    pub fn panic_guest(&self) {
        // No answer will come.
        drop(self.ask_guest(&Request::Panic));
    }
}

/// Sends a pattern on a stream on which everything comes back, and compares.
///
/// # Panics
/// Panics when something else comes back, or nothing.
#[track_caller]
pub fn echo_on(stream: &UnixStream, seed: u64, bytes: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pattern = std::io::Read::take(Pattern::new(seed), bytes);
            // What does not get there is missed below.
            let _ = std::io::copy(&mut pattern, &mut &*stream);
            let _ = stream.shutdown(Shutdown::Write);
        });
        let compared = Comparison::of(&mut &*stream, seed, bytes);
        if let Err(error) = compared {
            // Or the thread above would be waited for as well.
            let _ = stream.shutdown(Shutdown::Both);
            panic!("pattern {seed} did not come back: {error}");
        }
    });
}
