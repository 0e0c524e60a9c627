//! The testbed as a whole: prepare it, run commands in it.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::acceleration;
use crate::apt_source::Mirror;
use crate::cache::{self, Cache};
use crate::containerd::ContainerdVersion;
use crate::disk;
use crate::exit_status::ExitStatus;
use crate::install::{self, InstalledFile};
use crate::outer_kernel::OuterKernel;
use crate::packages;
use crate::progress;
use crate::qemu::{Acceleration, Machine, MachineOptions};
use crate::request::{Request, Run};
use crate::root_disk::{Root, RootDisk};
use crate::session::{Session, Sink, Stdin, Stream};
use crate::signal::SignalFd;
use crate::terminal::{self, RawTerminal};
use crate::test_image::TestImages;
use crate::workspace;

/// Space that a first run with one containerd version needs in the cache, in bytes: the root twice
/// (its files and the disk), the images twice (archives and store), the kernel, and room to work.
const SPACE: u64 = 3 << 30;

/// The machine beats every five seconds once its kernel runs; a kernel starts in seconds, or in a
/// minute where two processors are shared by many.
const PATIENCE: Duration = Duration::from_secs(180);

/// What testbed is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Which containerd.
    pub containerd: ContainerdVersion,
    /// What machine.
    pub machine: MachineOptions,
    /// Files to install beside Caisson's own.
    pub files: Vec<InstalledFile>,
    /// Leave Caisson out: for work on the testbed, or on a Caisson that does not build.
    pub bare: bool,
}

/// A command to run in the testbed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Environment beside the testbed's own (PATH, HOME, CAISSON_TESTBED).
    pub environment: Vec<(String, String)>,
    /// Where its standard input comes from.
    pub stdin: Stdin,
    /// A folder of this machine that appears as /share, to read and write.
    pub share: Option<PathBuf>,
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed on standard output.
    pub stdout: Vec<u8>,
    /// What it printed on standard error.
    pub stderr: Vec<u8>,
}

/// A prepared testbed. Every command runs in a machine of its own, started from the same state.
#[derive(Debug)]
pub struct Testbed {
    kernel: PathBuf,
    initramfs: PathBuf,
    disks: [PathBuf; 2],
    options: MachineOptions,
    acceleration: Acceleration,
}

impl Testbed {
    /// Makes everything that is missing or out of date. Progress goes to standard error.
    ///
    /// # Errors
    /// One sentence, with what to do: not root, no mirror, no space, a build that failed.
    pub fn prepare(options: &Options) -> Result<Self> {
        packages::install_missing()?;
        let mirror = Mirror::of_this_machine()?;
        let init = build_init()?;
        let mut files = options.files.clone();
        if !options.bare {
            files.extend(install::caisson()?);
        }
        let cache = Cache::open()?;
        if !cache.has_any(&RootDisk::name(options.containerd))? {
            let purpose = format!("a testbed with containerd {}", options.containerd);
            disk::require_space(cache.path(), SPACE, &purpose)?;
        }
        let kernel = OuterKernel::prepare(&cache, &mirror)?;
        let initramfs = kernel.initramfs(&cache, &init)?;
        let vmlinux = kernel.vmlinux();
        let acceleration = acceleration::choose(&cache, &vmlinux, &initramfs, options.machine)?;
        let root = Root::prepare(&cache, &mirror, options.containerd)?;
        let images = TestImages::prepare(&cache, &mirror, &root.folder().join("usr/bin/busybox"))?;
        let root_disk = RootDisk {
            version: options.containerd,
            root: &root,
            kernel: &kernel,
            images: &images,
            init: &init,
        }
        .prepare(&cache)?;
        let installed = install::disk(&files, &work_folder()?)?;
        Ok(Self {
            kernel: vmlinux,
            initramfs,
            disks: [root_disk, installed],
            options: options.machine,
            acceleration,
        })
    }

    /// Runs a command; its streams are this process's own. With [`Stdin::Inherit`] on a terminal the
    /// command has a terminal too.
    ///
    /// # Errors
    /// When the machine cannot be started, panics or hangs; its console's last lines are included.
    pub fn run(&self, command: &Command) -> Result<ExitStatus> {
        let mut stdout = io::stdout();
        let mut stderr = io::stderr();
        let terminal = command.stdin == Stdin::Inherit && terminal::present();
        self.converse(command, terminal, &mut |stream, bytes| match stream {
            Stream::Stdout => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Stream::Stderr => stderr.write_all(bytes),
        })
    }

    /// Runs a command and keeps what it prints.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn output(&self, command: &Command) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = self.converse(command, false, &mut |stream, bytes| {
            match stream {
                Stream::Stdout => stdout.extend_from_slice(bytes),
                Stream::Stderr => stderr.extend_from_slice(bytes),
            }
            Ok(())
        })?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }

    fn converse(&self, command: &Command, terminal: bool, sink: Sink<'_>) -> Result<ExitStatus> {
        let share = command.share.as_deref().map(Path::canonicalize).transpose();
        let share = share.context("the shared folder cannot be found")?;
        let mut environment = command.environment.clone();
        if let Some(term) = std::env::var("TERM").ok().filter(|_| terminal) {
            environment.push(("TERM".into(), term));
        }
        let request = Request::Run(Run {
            arguments: command.arguments.clone(),
            environment,
            terminal: terminal.then(terminal::size).transpose()?,
            separate_stderr: !io::stderr().is_terminal(),
            share: share.is_some(),
            // A beat would be an interruption of what is measured.
            heartbeat: !self.options.icount,
        });
        // Before any thread is started, so that every thread leaves these signals alone.
        let signals = terminal
            .then(|| SignalFd::block(&[libc::SIGWINCH, libc::SIGTERM, libc::SIGHUP, libc::SIGINT]))
            .transpose()
            .context("waiting for signals")?;
        let (machine, link) = Machine {
            kernel: &self.kernel,
            initramfs: &self.initramfs,
            disks: &self.disks,
            share: share.as_deref(),
            options: self.options,
            acceleration: self.acceleration,
        }
        .start()?;
        let raw = terminal.then(RawTerminal::enter).transpose()?;
        let status = Session {
            machine,
            link,
            request: &request,
            stdin: command.stdin.clone(),
            signals,
            patience: (!self.options.icount).then_some(PATIENCE),
        }
        .run(sink);
        drop(raw);
        status
    }
}

/// Where things made of this checkout go.
fn work_folder() -> Result<PathBuf> {
    Ok(workspace::folder()?.join("target/testbed"))
}

/// Removes the cache and everything the testbed made in this checkout; returns what was removed.
///
/// # Errors
/// Those of the file system.
pub fn clean() -> Result<[PathBuf; 2]> {
    let work = work_folder()?;
    cache::remove(&work)?;
    Ok([cache::clean()?, work])
}

/// The init of the outer machine: linked statically, since nothing else is there when it starts.
fn build_init() -> Result<PathBuf> {
    progress::step("building the testbed's init", || {
        workspace::static_program("caisson-testbed", "caisson-testbed-init")
    })
}
