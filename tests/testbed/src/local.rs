//! The testbed without an outer machine: this machine itself, for those whose KVM is real and who do
//! not mind that Caisson and two images are installed on it.

use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::apt_source::Mirror;
use crate::cache::{Cache, remove};
use crate::exit_status::ExitStatus;
use crate::install::{self, InstalledFile};
use crate::packages;
use crate::progress;
use crate::session::Stdin;
use crate::test_image::TestImages;
use crate::testbed::{Command, Options};
use crate::tool;

/// Where a containerd that this machine already runs is reached.
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";
/// State, socket and log of our own containerd. Its store lies in the cache.
const STATE: &str = "/run/caisson-testbed";
/// A containerd starts in a second; a machine that swaps may need much longer.
const START: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/bin/busybox";
const PACKAGES: &[&str] = &[
    "busybox-static",
    "containerd",
    "debian-archive-keyring",
    "mmdebstrap",
    "runc",
];

/// This machine, with Caisson installed and a containerd that has the test images.
#[derive(Debug)]
pub struct Local {
    socket: PathBuf,
    /// Ours, if the machine had none; it ends with this value.
    containerd: Option<Daemon>,
}

#[derive(Debug)]
struct Daemon(Child);

impl Local {
    /// Installs Caisson and the images on this machine.
    ///
    /// # Errors
    /// One sentence, with what to do: not root, no mirror, a build that failed.
    pub fn prepare(options: &Options) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("--local installs files under /usr/local and runs containerd: run it as root");
        }
        packages::ensure(&[packages::FOR_BUILDING, PACKAGES].concat())?;
        let mut files = options.files.clone();
        if !options.bare {
            files.extend(install::caisson()?);
        }
        for file in &files {
            put_in_place(file)?;
        }
        let cache = Cache::open()?;
        let images = TestImages::prepare(&cache, &Mirror::of_this_machine()?, Path::new(BUSYBOX))?;
        let local = if UnixStream::connect(SYSTEM_SOCKET).is_ok() {
            Self {
                socket: SYSTEM_SOCKET.into(),
                containerd: None,
            }
        } else {
            let socket = Path::new(STATE).join("containerd.sock");
            let containerd = progress::step("starting containerd", || {
                Daemon::start(&socket, &cache.path().join("local-containerd"))
            })?;
            Self {
                socket,
                containerd: Some(containerd),
            }
        };
        local.import(&images)?;
        Ok(local)
    }

    /// Runs a command here; its standard streams are this process's own.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn run(&self, command: &Command) -> Result<ExitStatus> {
        if matches!(command.stdin, Stdin::Bytes(_)) {
            bail!("a local command takes its input from this process or not at all");
        }
        let Some((name, arguments)) = command.arguments.split_first() else {
            bail!("there is no command to run");
        };
        let mut program = match &command.share {
            None => Program::new(name),
            Some(folder) => {
                fs::create_dir_all("/share").context("creating /share")?;
                let mut program = Program::new("unshare");
                // Only the command sees the mount, and it goes with it.
                program
                    .args(["--mount", "sh", "-c"])
                    .arg("mount --bind \"$0\" /share && exec \"$@\"")
                    .arg(folder)
                    .arg(name);
                program
            }
        };
        program
            .args(arguments)
            .env("CAISSON_TESTBED", "local")
            .env("CONTAINERD_ADDRESS", &self.socket)
            .envs(
                command
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
        if command.stdin == Stdin::Empty {
            program.stdin(Stdio::null());
        }
        let status = match program.status() {
            Ok(status) => status,
            Err(error) => {
                progress::line(&format!("cannot run {name}: {error}"));
                let code = if error.kind() == io::ErrorKind::NotFound {
                    127
                } else {
                    126
                };
                return Ok(ExitStatus::from_code(code));
            }
        };
        let number = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(ExitStatus::from_code(
            number.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX),
        ))
    }

    fn import(&self, images: &TestImages) -> Result<()> {
        for (archive, namespace, name) in TestImages::imports() {
            let mut list = self.ctr(namespace);
            list.args(["images", "ls", "-q", &format!("name=={name}")]);
            if !tool::output(&mut list)?.is_empty() {
                continue;
            }
            progress::step(
                &format!("importing {name} into namespace {namespace}"),
                || {
                    let archive = images.folder().join(archive);
                    tool::run(self.ctr(namespace).args(["images", "import"]).arg(archive))
                },
            )?;
        }
        Ok(())
    }

    fn ctr(&self, namespace: &str) -> Program {
        let mut program = Program::new("ctr");
        program.arg("-a").arg(&self.socket).args(["-n", namespace]);
        program
    }

    /// Whether containerd is ours and ends with this value.
    #[must_use]
    pub fn has_own_containerd(&self) -> bool {
        self.containerd.is_some()
    }
}

impl Daemon {
    fn start(socket: &Path, store: &Path) -> Result<Self> {
        fs::create_dir_all(STATE).with_context(|| format!("creating {STATE}"))?;
        let config = Path::new(STATE).join("config.toml");
        fs::write(&config, "version = 2\n").context("writing containerd's configuration")?;
        let log_file = Path::new(STATE).join("containerd.log");
        let log = File::create(&log_file).context("creating containerd's log")?;
        // It says that it answers as it would say it to systemd (sd_notify(3)).
        let name = format!("caisson-testbed-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).context("naming the notify socket")?;
        let ready = UnixDatagram::bind_addr(&address).context("binding the notify socket")?;
        ready
            .set_read_timeout(Some(START))
            .context("setting the notify socket's deadline")?;
        let mut command = Program::new("containerd");
        command
            .arg("--config")
            .arg(&config)
            .arg("--address")
            .arg(socket)
            .arg("--root")
            .arg(store)
            .arg("--state")
            .arg(Path::new(STATE).join("state"))
            .env("NOTIFY_SOCKET", format!("@{name}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log);
        crate::child::tied_to_us(&mut command, Vec::new());
        let daemon = Self(command.spawn().context("cannot run containerd")?);
        let mut message = [0; 256];
        loop {
            let count = ready.recv(&mut message).with_context(|| {
                format!("containerd does not start; see {}", log_file.display())
            })?;
            let message = String::from_utf8_lossy(message.get(..count).unwrap_or_default());
            if message.lines().any(|line| line == "READY=1") {
                return Ok(daemon);
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // Errors mean that it has ended already.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Copies a file to its place so that a program that runs from the old one goes on.
fn put_in_place(file: &InstalledFile) -> Result<()> {
    let target = &file.destination;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    let mut unfinished = target.clone().into_os_string();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    remove(&unfinished)?;
    fs::copy(&file.source, &unfinished)
        .and_then(|_| fs::rename(&unfinished, target))
        .with_context(|| format!("installing {}", target.display()))
}

#[cfg(test)]
#[path = "local_test.rs"]
mod tests;
