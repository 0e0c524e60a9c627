//! The machine's containerd, killed and started again.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};

/// A containerd starts within seconds, also in emulation and with many tasks to look at.
const START: Duration = Duration::from_secs(120);

/// A containerd and how it was started. When this goes out of scope, the machine's own runs, and
/// another one does not.
#[derive(Debug)]
pub struct Containerd {
    is_another: bool,
    pid: Option<Pid>,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
}

impl Containerd {
    /// The one that runs.
    ///
    /// # Panics
    /// Panics when there is none, and outside of a machine that is there for tests: somebody may
    /// need this containerd.
    #[must_use]
    pub fn running() -> Self {
        let testbed = env::var("CAISSON_TESTBED").unwrap_or_default();
        assert_eq!(testbed, "1", "this test kills the machine's containerd");
        let pid = find().expect("containerd runs");
        let of = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
        let strings = |name: &str| -> Vec<String> {
            let bytes = fs::read(of(name)).expect("containerd runs");
            let words = bytes.split(|byte| *byte == 0);
            words
                .filter(|word| !word.is_empty())
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect()
        };
        let environment = strings("environ")
            .into_iter()
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        Self {
            is_another: false,
            pid: Some(pid),
            args: strings("cmdline"),
            environment,
            log: fs::read_link(of("fd/1")).expect("containerd has a log"),
        }
    }

    /// Starts another one beside the machine's, with this configuration and the same log.
    ///
    /// # Panics
    /// As [`Containerd::running`], and when it does not start.
    #[must_use]
    pub fn another(config: &str) -> Self {
        let running = Self::running();
        let mut containerd = Self {
            is_another: true,
            pid: None,
            args: ["containerd", "--config", config].map(str::to_owned).into(),
            environment: running.environment.clone(),
            log: running.log.clone(),
        };
        containerd.start();
        containerd
    }

    /// Its process id.
    ///
    /// # Panics
    /// Panics when it was killed.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let pid = self.pid.expect("containerd runs");
        pid.as_raw_nonzero().get()
    }

    /// Kills it with SIGKILL and returns when it is gone.
    ///
    /// # Panics
    /// Panics when it cannot be killed.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Asks it to end, as systemd does, and returns when it is gone.
    ///
    /// # Panics
    /// Panics when it cannot be asked.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, signal: Signal) {
        let Some(pid) = self.pid.take() else { return };
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("containerd runs");
        pidfd_send_signal(&process, signal).expect("containerd can be killed");
        wait_for_end(&process);
        // It is our child if it was we who started it.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }

    /// Starts it and returns when it answers, having looked at what its tasks have become.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[expect(
        clippy::zombie_processes,
        reason = "it outlives this value; who ends it waits for it, by its number"
    )]
    pub fn start(&mut self) {
        if self.pid.is_some() {
            return;
        }
        // As systemd learns of it: a READY=1 datagram (sd_notify(3)).
        let name = format!("caisson-e2e-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name for a socket");
        let ready = UnixDatagram::bind_addr(&address).expect("a socket can be made");
        let (program, args) = self.args.split_first().expect("it had a name");
        let child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("NOTIFY_SOCKET", format!("@{name}"))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(self.log())
            .stderr(self.log())
            .spawn()
            .expect("containerd starts");
        self.pid = Some(Pid::from_child(&child));
        ready
            .set_read_timeout(Some(START))
            .expect("a socket can wait");
        let mut message = [0; 256];
        loop {
            let count = ready.recv(&mut message).expect("containerd gets ready");
            let text = String::from_utf8_lossy(message.get(..count).unwrap_or_default());
            if text.lines().any(|line| line == "READY=1") {
                return;
            }
        }
    }

    fn log(&self) -> File {
        let log = OpenOptions::new().append(true).open(&self.log);
        log.expect("containerd's log can be written")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.is_another {
            self.stop();
        } else {
            self.start();
        }
    }
}

fn find() -> Option<Pid> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    entries
        .filter(|entry| {
            let comm = fs::read_to_string(entry.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim() == "containerd")
        })
        // One that ended and was not waited for has no program.
        .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok())
        .find_map(|entry| entry.file_name().to_str()?.parse().ok())
        .and_then(Pid::from_raw)
}

/// Returns when a process has ended (pidfd_open(2)).
fn wait_for_end(process: &OwnedFd) {
    let mut waiting = [PollFd::new(process, PollFlags::IN)];
    poll(&mut waiting, None).expect("a process can be waited for");
}
