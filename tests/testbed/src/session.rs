//! One conversation with the outer machine: a request, the command's streams, its exit status.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::exit_status::ExitStatus;
use crate::frame::{Decoder, Frame, STDIN_CREDIT};
use crate::qemu::Running;
use crate::request::Request;
use crate::signal::SignalFd;
use crate::terminal;

/// Where a command's standard input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stdin {
    /// It is empty.
    #[default]
    Empty,
    /// This process's own; a terminal if that is one.
    Inherit,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Takes the output as it comes.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Stream, &[u8]) -> io::Result<()>;

/// One request to one machine.
pub(crate) struct Session<'a> {
    pub(crate) machine: Running,
    pub(crate) link: UnixStream,
    pub(crate) request: &'a Request,
    pub(crate) stdin: Stdin,
    /// Window changes and the signals that end us, while standard input is a raw terminal.
    pub(crate) signals: Option<SignalFd>,
    /// The machine hangs if it says nothing for so long; `None` never gives up.
    pub(crate) patience: Option<Duration>,
}

impl Session<'_> {
    /// Has the conversation and stops the machine.
    pub(crate) fn run(mut self, sink: Sink<'_>) -> Result<ExitStatus> {
        self.link
            .set_read_timeout(self.patience)
            .context("setting the port's deadline")?;
        let json = serde_json::to_vec(self.request).context("writing the request")?;
        self.link
            .write_all(&Frame::Request(json).encode())
            .context("sending the request")?;
        let feeder = Feeder::start(
            &self.link,
            std::mem::take(&mut self.stdin),
            self.signals.take(),
        )?;
        let result = self.receive(&feeder, sink);
        // Nobody reads the feeder's frames any more: without a machine its write ends.
        self.machine.stop();
        let interrupted = feeder.finish();
        match interrupted {
            Some(signal) => Ok(ExitStatus::from_code(
                u8::try_from(128 + signal).unwrap_or(255),
            )),
            None => result,
        }
    }

    fn receive(&mut self, feeder: &Feeder, sink: Sink<'_>) -> Result<ExitStatus> {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(frame) = decoder.next_frame().context("the port speaks nonsense")? {
                let sent = match frame {
                    Frame::Stdout(bytes) => sink(Stream::Stdout, &bytes),
                    Frame::Stderr(bytes) => sink(Stream::Stderr, &bytes),
                    Frame::StdinTaken(count) => {
                        feeder.credit(count as usize);
                        Ok(())
                    }
                    Frame::Exit(status) => return Ok(ExitStatus::from_code(status)),
                    Frame::Failed(text) => bail!(
                        "the outer machine: {text}\nIts console ends:\n{}",
                        self.machine.last_words()
                    ),
                    Frame::Started | Frame::Alive => Ok(()),
                    other => bail!("the outer machine sent an unexpected frame: {other:?}"),
                };
                match sent {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        // As if the command itself had got SIGPIPE.
                        return Ok(ExitStatus::from_code(128 + 13));
                    }
                    Err(error) => return Err(error).context("writing the command's output"),
                }
            }
            let count = match self.link.read(&mut buffer) {
                // It had not read everything we sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
                other => other,
            };
            match count {
                Ok(0) => bail!(
                    "the outer machine stopped before the command ended. Its console ends:\n{}",
                    self.machine.last_words()
                ),
                Ok(count) => decoder.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!(
                    "the outer machine hangs: it has said nothing for {} s. Its console ends:\n{}",
                    self.patience.unwrap_or_default().as_secs(),
                    self.machine.last_words()
                ),
                Err(error) => return Err(error).context("reading from the outer machine"),
            }
        }
    }
}

/// The thread that sends standard input and window sizes.
struct Feeder {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    /// Written to when one of the others changes.
    wake: rustix::fd::OwnedFd,
    credit: AtomicUsize,
    done: AtomicBool,
    /// The signal that ended us, 0 for none.
    interrupted: AtomicI32,
}

impl Feeder {
    fn start(link: &UnixStream, stdin: Stdin, signals: Option<SignalFd>) -> Result<Self> {
        let shared = Arc::new(Shared {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?,
            credit: AtomicUsize::new(STDIN_CREDIT),
            done: AtomicBool::new(false),
            interrupted: AtomicI32::new(0),
        });
        let link = link.try_clone().context("sharing the port")?;
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // An error is the machine's end, which the other thread reports.
            let _ = feed(link, &stdin, signals.as_ref(), &for_thread);
        });
        Ok(Self { shared, thread })
    }

    fn credit(&self, count: usize) {
        self.shared.credit.fetch_add(count, Ordering::AcqRel);
        self.wake();
    }

    /// Ends the thread; the signal that ended us, if one did.
    fn finish(self) -> Option<i32> {
        self.shared.done.store(true, Ordering::Release);
        self.wake();
        let _ = self.thread.join();
        Some(self.shared.interrupted.load(Ordering::Acquire)).filter(|signal| *signal != 0)
    }

    fn wake(&self) {
        // Only a full counter would refuse, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

fn feed(
    mut link: UnixStream,
    stdin: &Stdin,
    signals: Option<&SignalFd>,
    shared: &Shared,
) -> Result<()> {
    let mut rest: &[u8] = match stdin {
        Stdin::Bytes(bytes) => bytes,
        _ => &[],
    };
    let mut ended = false;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let credit = shared.credit.load(Ordering::Acquire).min(buffer.len());
        let wanted = !ended && credit > 0;
        let mut readable = false;
        if wanted && *stdin != Stdin::Inherit {
            let (now, later) = rest.split_at(credit.min(rest.len()));
            ended = now.is_empty();
            send_stdin(&mut link, shared, now)?;
            rest = later;
            continue;
        }
        let own_stdin = rustix::stdio::stdin();
        let mut waiting = vec![PollFd::new(&shared.wake, PollFlags::IN)];
        waiting.extend(signals.map(|signals| PollFd::new(signals, PollFlags::IN)));
        if wanted {
            waiting.push(PollFd::new(&own_stdin, PollFlags::IN));
        }
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("poll"),
        }
        if wanted {
            readable = waiting.last().is_some_and(|fd| !fd.revents().is_empty());
        }
        let _ = rustix::io::read(&shared.wake, &mut [0_u8; 8]);
        if shared.done.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(signals) = signals {
            handle_signals(signals, &mut link, shared)?;
        }
        if readable {
            let space = buffer.get_mut(..credit).unwrap_or_default();
            // A standard input that cannot be read is one that has ended.
            let count = rustix::io::read(own_stdin, &mut *space).unwrap_or(0);
            ended = count == 0;
            send_stdin(&mut link, shared, space.get(..count).unwrap_or_default())?;
        }
    }
}

fn send_stdin(link: &mut UnixStream, shared: &Shared, bytes: &[u8]) -> Result<()> {
    let frame = if bytes.is_empty() {
        Frame::StdinEnd
    } else {
        shared.credit.fetch_sub(bytes.len(), Ordering::AcqRel);
        Frame::Stdin(bytes.to_vec())
    };
    link.write_all(&frame.encode()).context("sending input")
}

fn handle_signals(signals: &SignalFd, link: &mut UnixStream, shared: &Shared) -> Result<()> {
    while let Some(signal) = signals.next_signal()? {
        if signal == libc::SIGWINCH {
            let size = terminal::size()?;
            let frame = Frame::Resize {
                rows: size.rows,
                columns: size.columns,
            };
            link.write_all(&frame.encode()).context("sending a size")?;
        } else {
            shared.interrupted.store(signal, Ordering::Release);
            // The reader sees the end and puts the terminal back in order.
            link.shutdown(std::net::Shutdown::Both)
                .context("closing the port")?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
