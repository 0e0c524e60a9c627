//! The shim's end of the control channel: replies find their requests, events are kept.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use caisson_control::{Channel, Event, FromVmm, Reply, Request, ToVmm};
use rustix::net::Shutdown;

use crate::wait::PATIENCE;

/// More connections than a test lets wait; a guest that floods its host has no more than this.
const MOST_CONNECTIONS: usize = 256;

/// The channel, and a thread that reads from it.
#[derive(Debug)]
pub(crate) struct Control {
    channel: Arc<Channel>,
    heard: Arc<Heard>,
    last_id: AtomicU64,
    reader: Option<JoinHandle<()>>,
}

/// What the VMM has said and nobody has asked for yet.
#[derive(Debug, Default)]
struct Heard {
    messages: Mutex<Messages>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Messages {
    replies: BTreeMap<u64, Reply>,
    events: Vec<Event>,
    /// Connections of the guest, with the port that it wanted.
    connections: Vec<(u32, UnixStream)>,
    /// Why no more will come.
    end: Option<String>,
}

impl Control {
    pub(crate) fn new(channel: Channel) -> Self {
        let channel = Arc::new(channel);
        let heard = Arc::new(Heard::default());
        let reader = {
            let (channel, heard) = (Arc::clone(&channel), Arc::clone(&heard));
            thread::spawn(move || read(&channel, &heard))
        };
        Self {
            channel,
            heard,
            last_id: AtomicU64::new(0),
            reader: Some(reader),
        }
    }

    /// Sends a request and waits for its reply. Several threads may do so at once.
    ///
    /// # Errors
    /// When the VMM is gone or silent.
    pub(crate) fn ask(&self, request: Request, files: &[BorrowedFd<'_>]) -> Result<Reply, String> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let what = format!("{request:?}");
        self.channel
            .send(&ToVmm { id, request }, files)
            .map_err(|error| format!("{what}: {error}"))?;
        self.wait(&what, |messages| messages.replies.remove(&id))
    }

    /// Waits for an event for which `choose` answers something, and takes it out.
    ///
    /// # Errors
    /// When the VMM is gone or silent.
    pub(crate) fn event<T>(
        &self,
        what: &str,
        choose: impl Fn(&Event) -> Option<T>,
    ) -> Result<T, String> {
        self.wait(what, |messages| {
            let place = messages
                .events
                .iter()
                .position(|event| choose(event).is_some())?;
            choose(&messages.events.remove(place))
        })
    }

    /// The events so far that nobody has taken.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.heard.lock().events.clone()
    }

    /// Waits for a connection of the guest to `port`.
    ///
    /// # Errors
    /// When the VMM is gone or silent.
    pub(crate) fn connection(&self, port: u32) -> Result<UnixStream, String> {
        self.wait(&format!("a connection to port {port}"), |messages| {
            let place = messages
                .connections
                .iter()
                .position(|(to, _)| *to == port)?;
            Some(messages.connections.remove(place).1)
        })
    }

    fn wait<T>(
        &self,
        what: &str,
        mut take: impl FnMut(&mut Messages) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut messages = self.heard.lock();
        loop {
            if let Some(taken) = take(&mut messages) {
                return Ok(taken);
            }
            if let Some(end) = &messages.end {
                return Err(format!("waiting for {what}: {end}"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "waited {} s for {what} in vain",
                    PATIENCE.as_secs()
                ));
            }
            let waited = self.heard.changed.wait_timeout(messages, left);
            messages = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes the channel, as a shim that ends does.
    pub(crate) fn close(&mut self) {
        // It fails only when the VMM has closed its end already.
        let _ = rustix::net::shutdown(self.channel.as_fd(), Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            // A panic in it would have been seen as silence.
            let _ = reader.join();
        }
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads messages until there are no more.
fn read(channel: &Channel, heard: &Heard) {
    loop {
        let received = channel.receive::<FromVmm>();
        let mut messages = heard.lock();
        match received {
            Ok((FromVmm::Reply { id, reply }, _)) => {
                messages.replies.insert(id, reply);
            }
            Ok((FromVmm::Event(event), files)) => messages.note(event, files),
            Err(error) => messages.end = Some(error.to_string()),
        }
        let ended = messages.end.is_some();
        drop(messages);
        heard.changed.notify_all();
        if ended {
            return;
        }
    }
}

impl Messages {
    fn note(&mut self, event: Event, files: Vec<OwnedFd>) {
        match (event, <[OwnedFd; 1]>::try_from(files)) {
            (Event::GuestConnected { port }, Ok([socket])) => {
                self.connections.push((port, socket.into()));
                if self.connections.len() > MOST_CONNECTIONS {
                    // Nobody has asked for the oldest.
                    self.connections.remove(0);
                }
            }
            (Event::GuestConnected { port }, Err(files)) => {
                self.end = Some(format!(
                    "a connection to port {port} came with {} files",
                    files.len()
                ));
            }
            (event, _) => self.events.push(event),
        }
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
