//! The standard streams on their way from the host: a connection arrives with its number, and
//! waits until the process it belongs to claims it, or the claim waits for the connection.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caisson_protocol::{MAX_STREAM_HEADER, StreamId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::error::AgentError;
use crate::socket::Listener;

/// Connections that may wait for a process. The host opens at most three per process, just before
/// or after it asks for the process, so this many mean that something is broken.
const MAX_PARKED: usize = 256;

/// How long a connection may take to say its number. The host writes it right after connecting.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// How long a connection may wait for its process. Longer than any request of the host may take,
/// because creating the process is such a request.
const PARKING_TIME: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    parked: HashMap<StreamId, Parked>,
    claims: HashMap<StreamId, oneshot::Sender<Descriptor>>,
    /// The latest claims that were given up: their streams are closed when they come.
    abandoned: VecDeque<StreamId>,
    /// Counts arrivals, so that the end of a parking time cannot hit a later connection.
    arrivals: u64,
}

#[derive(Debug)]
struct Parked {
    arrival: u64,
    stream: Descriptor,
}

/// Where streams and processes meet. Clones are the same place.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<State>>);

/// A process's right to a stream. Dropping it gives the right up and closes the stream, which may
/// have come or not.
#[derive(Debug)]
pub struct Claim {
    streams: Streams,
    id: StreamId,
    receiver: oneshot::Receiver<Descriptor>,
}

impl Streams {
    /// Accepts streams for as long as the runtime lives.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: Listener) -> io::Result<()> {
        listener
            .for_each(|stream| self.clone().welcome(stream))
            .await
    }

    async fn welcome(self, stream: Descriptor) {
        let mut header = [0_u8; MAX_STREAM_HEADER];
        let read = timeout(HEADER_TIME, read_exactly(&stream, &mut header)).await;
        // What does not begin as it should is closed; the host sees that.
        let (Ok(Ok(())), Ok(id)) = (read, StreamId::from_header(&header)) else {
            return;
        };
        if let Some(arrival) = self.arrive(id, stream) {
            tokio::time::sleep(PARKING_TIME).await;
            self.evict(id, arrival);
        }
    }

    /// Hands a stream to its claim, or parks it and answers with the number of its arrival. A
    /// second stream of the same number, and one too many, are closed.
    fn arrive(&self, id: StreamId, stream: Descriptor) -> Option<u64> {
        let mut state = self.lock();
        if let Some(claim) = state.claims.remove(&id) {
            // A claim that is gone meanwhile closes the stream.
            drop(claim.send(stream));
            return None;
        }
        if state.parked.len() >= MAX_PARKED
            || state.parked.contains_key(&id)
            || state.abandoned.contains(&id)
        {
            return None;
        }
        state.arrivals += 1;
        let arrival = state.arrivals;
        state.parked.insert(id, Parked { arrival, stream });
        Some(arrival)
    }

    fn evict(&self, id: StreamId, arrival: u64) {
        let mut state = self.lock();
        if state
            .parked
            .get(&id)
            .is_some_and(|parked| parked.arrival == arrival)
        {
            state.parked.remove(&id);
        }
    }

    /// Claims a stream for a process; `None` for the number 0, which stands for no stream.
    ///
    /// # Errors
    /// When another process has claimed it and not yet got it.
    pub fn claim(&self, number: u64) -> Result<Option<Claim>, AgentError> {
        let Some(id) = StreamId::new(number) else {
            return Ok(None);
        };
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.abandoned.retain(|abandoned| *abandoned != id);
        if let Some(parked) = state.parked.remove(&id) {
            // The receiver is right here.
            drop(sender.send(parked.stream));
        } else {
            match state.claims.entry(id) {
                Entry::Vacant(entry) => {
                    entry.insert(sender);
                }
                Entry::Occupied(_) => {
                    return Err(AgentError::InvalidArgument(format!(
                        "stream {id} is meant for two processes or two directions"
                    )));
                }
            }
        }
        drop(state);
        Ok(Some(Claim {
            streams: self.clone(),
            id,
            receiver,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The stream, as soon as it is there; `None` if it will never come.
    pub async fn stream(mut self) -> Option<Descriptor> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.receiver.close();
        let mut state = self.streams.lock();
        // Only this claim's own entry: once it was served, the number may be claimed again.
        if state
            .claims
            .get(&self.id)
            .is_some_and(oneshot::Sender::is_closed)
        {
            state.claims.remove(&self.id);
            if state.abandoned.len() >= MAX_PARKED {
                state.abandoned.pop_front();
            }
            state.abandoned.push_back(self.id);
        }
    }
}

/// Reads exactly one header and nothing of the data behind it.
async fn read_exactly(stream: &Descriptor, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = stream.read(buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(count..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
#[path = "streams_test.rs"]
mod tests;
