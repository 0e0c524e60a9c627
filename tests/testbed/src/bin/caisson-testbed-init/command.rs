//! The command, and its streams between its pipes (or terminal) and the port.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use caisson_testbed::{Frame, Run};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::containerd::HEARTBEAT;
use crate::link::Link;
use crate::processes::Processes;

/// Bytes read from a stream at once; one frame.
const CHUNK: usize = 32 * 1024;

/// The largest pipe an unprivileged program may ask for (fs.pipe-max-size), in bytes, doubled.
const MOST_LEFT_IN_PIPES: usize = 2 * 1024 * 1024;

/// Which frame carries a stream's bytes.
type Wrap = fn(Vec<u8>) -> Frame;

/// Our ends of the command's streams. All are non-blocking.
struct Streams {
    /// What the command will read next, not yet accepted by its pipe.
    pending: Vec<u8>,
    /// No bytes will follow the pending ones.
    input_ended: bool,
    /// Gone once the command has closed it or has been told of the end.
    input: Option<File>,
    outputs: Vec<(File, Wrap)>,
    /// The terminal, if there is one: input and output are both copies of it.
    terminal: Option<File>,
}

/// Runs the command and returns the exit status the host side shall end with.
pub(crate) fn run(run: &Run, processes: &Processes, link: &mut Link) -> Result<u8> {
    let Some((program, arguments)) = run.arguments.split_first() else {
        anyhow::bail!("there is no command to run");
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", crate::PATH)
        .env("HOME", "/root")
        .env("CAISSON_TESTBED", "1")
        .envs(run.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/root");
    let mut streams = Streams::connect(run, &mut command)?;
    link.send(&Frame::Started)?;
    let pid = match processes.spawn(&mut command, run.terminal.is_some()) {
        Ok(pid) => pid,
        Err(error) => {
            let text = format!("testbed: cannot run {program}: {error}\n");
            link.send(&Frame::Stderr(text.into_bytes()))?;
            // As a shell says it: not found, or found and not runnable.
            return Ok(if error.kind() == ErrorKind::NotFound {
                127
            } else {
                126
            });
        }
    };
    // Our copies of the command's ends would keep its streams open for ever.
    drop(command);
    streams.serve(pid, run.heartbeat, processes, link)
}

impl Streams {
    fn connect(run: &Run, command: &mut Command) -> Result<Self> {
        let mut streams = Self {
            pending: Vec::new(),
            input_ended: false,
            input: None,
            outputs: Vec::new(),
            terminal: None,
        };
        if let Some(size) = run.terminal {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let master = openpt(flags).context("opening a terminal")?;
            unlockpt(&master).context("unlocking the terminal")?;
            resize(&master, size.rows, size.columns)?;
            let slave = ioctl_tiocgptpeer(&master, flags).context("opening the terminal's end")?;
            command.stdin(slave.try_clone().context("terminal")?);
            command.stdout(slave.try_clone().context("terminal")?);
            command.stderr(slave);
            let master = File::from(nonblocking(master)?);
            streams.input = Some(master.try_clone().context("terminal")?);
            streams
                .outputs
                .push((master.try_clone().context("terminal")?, Frame::Stdout));
            streams.terminal = Some(master);
        } else {
            let (theirs, ours) = pipe()?;
            command.stdin(theirs);
            streams.input = Some(File::from(nonblocking(ours)?));
            let (ours, theirs) = pipe()?;
            command.stdout(theirs);
            streams
                .outputs
                .push((File::from(nonblocking(ours)?), Frame::Stdout));
        }
        if run.terminal.is_none() || run.separate_stderr {
            let (ours, theirs) = pipe()?;
            command.stderr(Stdio::from(theirs));
            streams
                .outputs
                .push((File::from(nonblocking(ours)?), Frame::Stderr));
        }
        Ok(streams)
    }

    /// Copies until the command has ended and everything it wrote is sent.
    fn serve(
        &mut self,
        pid: Pid,
        heartbeat: bool,
        processes: &Processes,
        link: &mut Link,
    ) -> Result<u8> {
        // Orphans end all the time and wake us: silence is measured by the clock, not by the wait.
        let mut beaten = Instant::now();
        loop {
            // First what has arrived: the request may have brought the first input with it.
            self.take_frames(link)?;
            self.feed(link)?;
            let ready = self.wait(heartbeat, processes, link)?;
            if ready.link {
                link.fill()?;
            }
            // Before the output is drained: what an ended command wrote is all in the pipe.
            let ended = processes.reap(pid)?;
            if heartbeat && beaten.elapsed().as_secs() >= HEARTBEAT.tv_sec.unsigned_abs() {
                link.send(&Frame::Alive)?;
                beaten = Instant::now();
            }
            if let Some(status) = ended {
                // What it left running may write for ever: stop after more than a pipe can hold.
                for _ in 0..MOST_LEFT_IN_PIPES / CHUNK {
                    if !self.forward_outputs(link)? {
                        break;
                    }
                }
                return Ok(status.code());
            }
            self.forward_outputs(link)?;
        }
    }

    fn wait(&self, heartbeat: bool, processes: &Processes, link: &Link) -> Result<Ready> {
        let mut waiting = vec![
            PollFd::new(link, PollFlags::IN),
            PollFd::new(processes, PollFlags::IN),
        ];
        for (output, _) in &self.outputs {
            waiting.push(PollFd::new(output, PollFlags::IN));
        }
        if let Some(input) = self.input.as_ref().filter(|_| !self.pending.is_empty()) {
            waiting.push(PollFd::new(input, PollFlags::OUT));
        }
        poll(&mut waiting, heartbeat.then_some(&HEARTBEAT)).context("poll")?;
        Ok(Ready {
            link: waiting.first().is_some_and(|fd| !fd.revents().is_empty()),
        })
    }

    fn take_frames(&mut self, link: &mut Link) -> Result<()> {
        while let Some(frame) = link.next_frame()? {
            match frame {
                Frame::Stdin(bytes) => self.pending.extend_from_slice(&bytes),
                Frame::StdinEnd => {
                    self.input_ended = true;
                    if self.terminal.is_some() {
                        // A terminal has no end of file but the character for it.
                        self.pending.push(4);
                    }
                }
                Frame::Resize { rows, columns } => {
                    if let Some(terminal) = &self.terminal {
                        resize(terminal, rows, columns)?;
                    }
                }
                other => anyhow::bail!("unexpected frame {other:?}"),
            }
        }
        Ok(())
    }

    /// Gives the command what its pipe accepts now, and the host side credit for it.
    fn feed(&mut self, link: &mut Link) -> Result<()> {
        while let Some(input) = self.input.as_mut().filter(|_| !self.pending.is_empty()) {
            match input.write(&self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                    link.send(&Frame::StdinTaken(u32::try_from(count).unwrap_or(u32::MAX)))?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The command has closed its standard input: the rest is for nobody.
                Err(_) => self.input = None,
            }
        }
        if self.input.is_none() && !self.pending.is_empty() {
            let count = u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
            self.pending.clear();
            link.send(&Frame::StdinTaken(count))?;
        }
        if self.input_ended && self.pending.is_empty() {
            self.input = None;
        }
        Ok(())
    }

    /// Sends one chunk of each output that has some. False when none had.
    fn forward_outputs(&mut self, link: &mut Link) -> Result<bool> {
        let mut any = false;
        let mut buffer = vec![0; CHUNK];
        let mut open = Vec::new();
        for (mut output, wrap) in self.outputs.drain(..) {
            match output.read(&mut buffer) {
                Ok(0) => continue,
                Ok(count) => {
                    link.send(&wrap(buffer.get(..count).unwrap_or_default().to_vec()))?;
                    any = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => any = true,
                // A terminal answers EIO once its last user is gone.
                Err(_) => continue,
            }
            open.push((output, wrap));
        }
        self.outputs = open;
        Ok(any)
    }
}

/// What a wait ended with.
struct Ready {
    link: bool,
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")
}

fn nonblocking(fd: OwnedFd) -> Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd).context("fcntl")?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK).context("fcntl")?;
    Ok(fd)
}

fn resize(terminal: impl std::os::fd::AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).context("setting the terminal's size")
}
