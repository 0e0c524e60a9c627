//! The thread that runs all devices: one level-triggered epoll loop.
//!
//! It owns the devices from activation to stop, so that they need no locks. Others reach it by
//! commands; who stops a device waits until it is back.

mod slots;
mod wait_context;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::slots::Slots;
use self::wait_context::{Token, WaitContext};
use crate::events::EventSender;
use crate::filter::{self, Kind};
use crate::virtio::device::{Counters, Stopped};
use crate::virtio::runner::{DeviceRunner, Job};

/// Stack of the thread. Devices keep buffers of a few KiB on it.
const STACK_SIZE: usize = 256 * 1024;

/// Handle to the thread.
pub(crate) struct IoThread {
    events: EventSender,
    commands: Mutex<Option<Commands>>,
}

/// The way to a running thread.
struct Commands {
    sender: Sender<Command>,
    wake: Arc<EventFd>,
}

enum Command {
    Start(Job),
    Stop {
        place: usize,
        reply: SyncSender<Option<Stopped>>,
    },
    Forget {
        place: usize,
    },
    Statistics {
        reply: SyncSender<BTreeMap<usize, (Counters, u64)>>,
    },
}

impl IoThread {
    /// A thread without devices, not started yet.
    pub(crate) fn new(events: EventSender) -> Self {
        Self {
            events,
            commands: Mutex::new(None),
        }
    }

    /// Counters and number of faults of all devices that were ever started, by place.
    pub(crate) fn statistics(&self) -> BTreeMap<usize, (Counters, u64)> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let running = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = running.as_ref().and_then(|commands| {
            commands.send(Command::Statistics { reply });
            answer.recv().ok()
        });
        answer.unwrap_or_default()
    }

    /// The device that was in `place`, and stopped, will not come back.
    pub(crate) fn forget(&self, place: usize) {
        let running = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = running.as_ref() {
            commands.send(Command::Forget { place });
        }
    }

    /// Starts the thread, unless it runs. Otherwise that happens when it is needed, on whichever
    /// thread that shows; once the process is locked in, only the control thread may do it.
    ///
    /// # Errors
    /// Fails when the host has no resources left.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut running = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(self.launch()?);
        }
        Ok(())
    }

    /// Starts the thread.
    fn launch(&self) -> io::Result<Commands> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let wait = WaitContext::new()?;
        wait.add(&wake, Token::Command)?;
        let worker = Worker {
            alarm: Alarm(self.events.clone()),
            slots: Slots::new(self.events.clone(), wait),
            commands: receiver,
            wake: Arc::clone(&wake),
        };
        let events = self.events.clone();
        std::thread::Builder::new()
            .name("io".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                let result = filter::enter(Kind::Io).and_then(|()| worker.run());
                if let Err(error) = result {
                    events.fail(format!("io thread: {error}"));
                }
            })?;
        Ok(Commands { sender, wake })
    }
}

impl Commands {
    fn send(&self, command: Command) {
        // Fails only when the thread has ended, of which the control thread knows from the thread
        // itself; a reply that never comes shows up as a closed channel.
        let _ = self.sender.send(command);
        let _ = self.wake.write(1);
    }
}

impl DeviceRunner for IoThread {
    fn start(&self, job: Job) {
        if let Err(error) = self.begin() {
            self.events
                .fail(format!("cannot start the thread for devices: {error}"));
        }
        let running = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = running.as_ref() {
            commands.send(Command::Start(job));
        }
    }

    fn stop(&self, place: usize) -> Option<Stopped> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()?
            .send(Command::Stop { place, reply });
        answer.recv().ok().flatten()
    }
}

/// Ends the machine when the thread panics: devices that nobody runs would only hang.
struct Alarm(EventSender);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the thread of the devices panicked".to_owned());
        }
    }
}

/// What runs on the thread.
struct Worker {
    /// First, and so dropped first: whoever waits for a reply learns that the thread is gone when
    /// `commands` is dropped, and must then find the reason reported.
    #[expect(dead_code, reason = "there for its drop")]
    alarm: Alarm,
    slots: Slots,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
}

impl Worker {
    /// Runs until the handle is gone.
    fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.slots.wait(&mut ready)?;
            for token in ready.drain(..) {
                match token {
                    Token::Command => {
                        // Only fails when there is nothing to read.
                        let _ = self.wake.read();
                        loop {
                            match self.commands.try_recv() {
                                Ok(command) => self.obey(command),
                                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
                            }
                        }
                    }
                    Token::Queue { place, index } => self.slots.on_queue(place, index),
                    Token::Device { place, token } => self.slots.on_ready(place, token),
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may have gone; then nobody misses the reply.
        match command {
            Command::Start(job) => self.slots.start(job),
            Command::Stop { place, reply } => {
                let _ = reply.send(self.slots.stop(place));
            }
            Command::Forget { place } => self.slots.forget(place),
            Command::Statistics { reply } => {
                let _ = reply.send(self.slots.statistics());
            }
        }
    }
}

#[cfg(test)]
#[path = "io_thread_test.rs"]
mod tests;
