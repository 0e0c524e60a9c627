//! All connections of the device, and what waits to be told to the guest.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::VsockEvents;
use super::connection::{Connection, Draining, Next, Outcome};
use super::credit::{NARROW_WINDOW, WINDOW};
use super::packet::{HOST_CID, Header, Ports, STREAM, op};
use crate::virtio::chain::Chain;
use crate::virtio::device::Watch;
use crate::virtio::queue::QueueError;

/// Most connections at a time, those included that are being opened or drained.
pub(super) const MAX_CONNECTIONS: usize = 1023;
/// As many connections as may have the wide window at a time.
pub(super) const WIDE_CONNECTIONS: usize = 64;
/// First port used for the host's end of connections that the host opens. Ports below it are those
/// on which the host may be asked to listen.
pub(super) const FIRST_LOCAL_PORT: u32 = 1 << 30;
/// Last of them. `u32::MAX` means "any port".
const LAST_LOCAL_PORT: u32 = (1 << 31) - 1;
/// Most RST packets that wait for room in the receive queue. A guest that provokes more without
/// taking them does not get the rest.
pub(super) const MAX_RESETS: usize = 256;

/// The token of a connection: its number for as long as it is open.
pub(super) type Token = u32;
/// The first token for connections; those below are the device's own.
pub(super) const FIRST_TOKEN: Token = 16;

/// The connections.
pub(super) struct Table {
    guest_cid: u64,
    events: Arc<dyn VsockEvents>,
    connections: BTreeMap<Token, Connection>,
    draining: BTreeMap<Token, Draining>,
    by_ports: BTreeMap<Ports, Token>,
    next_token: Token,
    next_port: u32,
    /// Connections that have something to send, in turn.
    ready: VecDeque<Token>,
    resets: VecDeque<Header>,
    watches_changed: bool,
}

/// What is to be sent to the guest next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// A RST that belongs to no connection.
    Reset(Header),
    /// A packet without data of this connection.
    Control(Token, u16, u32),
    /// At most this many bytes from the host for this connection.
    Data(Token, u32),
}

/// Whatever could grow because of what the guest does, so that tests see that it is bounded.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Held {
    /// Connections, those included that are drained.
    pub(super) connections: usize,
    /// Bytes of the largest backlog.
    pub(super) largest_backlog: usize,
    /// Packets of no connection that wait for the guest.
    pub(super) resets: usize,
    /// Entries of the list of connections with something to send.
    pub(super) ready: usize,
}

impl Table {
    pub(super) fn new(guest_cid: u64, events: Arc<dyn VsockEvents>) -> Self {
        Self {
            guest_cid,
            events,
            connections: BTreeMap::new(),
            draining: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            next_token: FIRST_TOKEN,
            next_port: FIRST_LOCAL_PORT,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            watches_changed: false,
        }
    }

    /// Opens a connection to `port` of the guest for request number `request` of the host.
    pub(super) fn connect(&mut self, request: u64, port: u32, stream: UnixStream) {
        if self.is_full() || stream.set_nonblocking(true).is_err() {
            self.events.connect_finished(request, false);
            return;
        }
        let ports = Ports {
            host: self.free_port(),
            guest: port,
        };
        let window = self.window();
        self.insert(Connection::connecting(ports, stream, window, request));
    }

    /// Handles a packet of the guest. Answers how many bytes of data a connection took from it.
    ///
    /// # Errors
    /// Fails when it is shorter than it says.
    pub(super) fn on_packet(&mut self, chain: &Chain) -> Result<u64, QueueError> {
        let mut data = chain.reader();
        let header: Header = data.read_object()?;
        let len = usize::try_from(header.len.get()).unwrap_or(usize::MAX);
        if len > data.left() {
            return Err(QueueError::TooShort {
                needed: len,
                left: data.left(),
            });
        }
        let mut taken = 0;
        let addressed = header.src_cid == self.guest_cid && header.dst_cid == HOST_CID;
        let ports = Ports {
            host: header.dst_port.get(),
            guest: header.src_port.get(),
        };
        if !addressed || header.kind != STREAM {
            self.reset(&header);
        } else if let Some(token) = self.by_ports.get(&ports).copied() {
            let Some(connection) = self.connections.get_mut(&token) else {
                return Ok(0);
            };
            match connection.on_packet(&header, data)? {
                Outcome::Open if header.op == op::RW => taken = header.len.get().into(),
                Outcome::Open => {}
                Outcome::Accepted(request) => self.events.connect_finished(request, true),
                Outcome::Gone => self.remove(token),
                Outcome::Broken => {
                    self.reset(&header);
                    self.remove(token);
                }
            }
            self.settle(token);
        } else if header.op == op::REQUEST {
            self.accept(ports, &header);
        } else {
            self.reset(&header);
        }
        Ok(taken)
    }

    fn accept(&mut self, ports: Ports, header: &Header) {
        let pair = if self.is_full() {
            None
        } else {
            connected_pair().ok()
        };
        let Some((ours, theirs)) = pair else {
            self.reset(header);
            return;
        };
        self.events.guest_connected(ports.host, theirs);
        let window = self.window();
        self.insert(Connection::accepting(ports, ours, window, header));
    }

    /// Looks at the socket of a connection for which the io thread was woken.
    pub(super) fn on_ready(&mut self, token: Token) {
        if let Some(draining) = self.draining.get_mut(&token) {
            if draining.on_ready() {
                self.draining.remove(&token);
                self.watches_changed = true;
            }
        } else if let Some(connection) = self.connections.get_mut(&token) {
            if connection.on_ready() {
                self.settle(token);
            } else {
                // The host hung up before the guest answered; the guest must not go on alone.
                let header = connection.header(self.guest_cid, op::RST, 0, 0);
                self.push_reset(header);
                self.remove(token);
            }
        }
    }

    /// What is to be sent next, if anything.
    pub(super) fn work(&mut self) -> Option<Work> {
        if let Some(reset) = self.resets.front() {
            return Some(Work::Reset(*reset));
        }
        while let Some(token) = self.ready.front().copied() {
            match self.connections.get_mut(&token) {
                None => {}
                Some(connection) => match connection.next() {
                    Next::Control(op, flags) => return Some(Work::Control(token, op, flags)),
                    Next::Data(room) => return Some(Work::Data(token, room)),
                    Next::Nothing => connection.queued = false,
                },
            }
            self.ready.pop_front();
        }
        None
    }

    /// The RST that [`Table::work`] gave was sent.
    pub(super) fn reset_sent(&mut self) {
        self.resets.pop_front();
    }

    /// The connection at the front was served: the next one has its turn.
    pub(super) fn served(&mut self, token: Token) {
        if self.ready.pop_front().is_some()
            && let Some(connection) = self.connections.get_mut(&token)
        {
            connection.queued = false;
        }
        self.settle(token);
    }

    /// A connection, to send for it.
    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(&token)
    }

    /// What the io thread is to wait for.
    pub(super) fn watches(&self) -> impl Iterator<Item = Watch> {
        let draining = self.draining.iter();
        self.connections
            .iter()
            .filter_map(|(token, connection)| connection.watch(*token))
            .chain(draining.map(|(token, draining)| draining.watch(*token)))
    }

    /// Whether [`Table::watches`] has changed since this was last asked.
    pub(super) fn take_watches_changed(&mut self) -> bool {
        std::mem::take(&mut self.watches_changed)
    }

    /// Ends everything, because the device stops. Whoever waits for the guest's answer gets one.
    pub(super) fn end_all(self) {
        for connection in self.connections.into_values() {
            if let Some(request) = connection.unanswered() {
                self.events.connect_finished(request, false);
            }
            // What the host's socket does not take now would need somebody to wait for it.
            drop(connection.end());
        }
        for mut draining in self.draining.into_values() {
            draining.on_ready();
        }
    }

    /// What is held for the guest at the moment.
    #[cfg(test)]
    pub(super) fn held(&self) -> Held {
        let connections = self.connections.values().map(Connection::backlog_length);
        let draining = self.draining.values().map(Draining::backlog_length);
        Held {
            connections: self.connections.len() + self.draining.len(),
            largest_backlog: connections.chain(draining).max().unwrap_or(0),
            resets: self.resets.len(),
            ready: self.ready.len(),
        }
    }

    fn is_full(&self) -> bool {
        self.count() >= MAX_CONNECTIONS
    }

    fn count(&self) -> usize {
        self.connections.len() + self.draining.len()
    }

    /// The window of the next connection.
    fn window(&self) -> u32 {
        if self.count() < WIDE_CONNECTIONS {
            WINDOW
        } else {
            NARROW_WINDOW
        }
    }

    fn insert(&mut self, connection: Connection) {
        while self.connections.contains_key(&self.next_token)
            || self.draining.contains_key(&self.next_token)
        {
            self.next_token = self.next_token.checked_add(1).unwrap_or(FIRST_TOKEN);
        }
        let token = self.next_token;
        self.next_token = token.checked_add(1).unwrap_or(FIRST_TOKEN);
        self.by_ports.insert(connection.ports(), token);
        self.connections.insert(token, connection);
        self.watches_changed = true;
        self.settle(token);
    }

    fn remove(&mut self, token: Token) {
        let Some(connection) = self.connections.remove(&token) else {
            return;
        };
        self.by_ports.remove(&connection.ports());
        if connection.queued {
            // Left there, it would go only when the guest has buffers: a guest without could make
            // the list as long as it likes.
            self.ready.retain(|other| *other != token);
        }
        self.watches_changed = true;
        if let Some(request) = connection.unanswered() {
            self.events.connect_finished(request, false);
        }
        if let Some(draining) = connection.end() {
            self.draining.insert(token, draining);
        }
    }

    /// Draws the consequences of what happened to a connection.
    fn settle(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if connection.is_finished() {
            let header = connection.header(self.guest_cid, op::RST, 0, 0);
            self.push_reset(header);
            self.remove(token);
            return;
        }
        if !connection.queued && connection.next() != Next::Nothing {
            connection.queued = true;
            self.ready.push_back(token);
        }
        let interest = connection.interest();
        if connection.watched != interest {
            connection.watched = interest;
            self.watches_changed = true;
        }
    }

    /// Answers a packet with RST, unless it is one itself.
    fn reset(&mut self, header: &Header) {
        if header.op != op::RST {
            self.push_reset(header.reset());
        }
    }

    fn push_reset(&mut self, header: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(header);
        }
    }

    /// A port for the host's end that no open connection uses.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port < LAST_LOCAL_PORT {
                port + 1
            } else {
                FIRST_LOCAL_PORT
            };
            let first = Ports {
                host: port,
                guest: 0,
            };
            let last = Ports {
                host: port,
                guest: u32::MAX,
            };
            // There are far more ports than connections, so one is found soon.
            if self.by_ports.range(first..=last).next().is_none() {
                return port;
            }
        }
    }
}

/// Our end and the other one of a connection that the guest opens.
fn connected_pair() -> std::io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours, theirs))
}
