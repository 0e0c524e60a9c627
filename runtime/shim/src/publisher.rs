//! Telling containerd what happens, in order.
//!
//! One queue per shim, one event in flight. An event is sent again until containerd has it, over a
//! new connection each time, and no later event overtakes it: docker takes an exit before its start
//! for a fault, and a lost exit leaves a container running for ever. containerd may be down for
//! as long as an upgrade takes; what waits is bounded by number and by age.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

use crate::event::TaskEvent;
use crate::socket;

/// Most events that wait. A pod makes a handful per process; an hour of one exec probe per second
/// fits three times over.
const MAX_WAITING: usize = 10_000;
/// An event this old helps nobody: containerd has long looked at the state of every task itself.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How long containerd may take for one event; its own publisher gives it as much.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the first new attempt; doubles up to [`MAX_PAUSE`]. Nothing announces that
/// containerd listens again, so it has to be tried.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The queue of events for containerd. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    namespace: Arc<str>,
    /// `None` when nobody wants events.
    queue: Option<Arc<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    added: Notify,
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Instant, Envelope)>,
    in_flight: bool,
    dropped: u64,
}

/// Why an event did not arrive.
enum Failure {
    /// containerd is not there or did not answer: worth another attempt.
    Away(String),
    /// containerd answered that it will not have this event.
    Refused(String),
}

impl Publisher {
    /// Starts to publish to containerd's ttrpc socket at `address`; with an empty address events
    /// are discarded. Must be called inside the runtime.
    pub(crate) fn start(address: &str, namespace: &str) -> Self {
        let queue = (!address.is_empty()).then(|| {
            let queue = Arc::new(Queue::default());
            tokio::spawn(run(Arc::clone(&queue), socket::path_of(address)));
            queue
        });
        Self {
            namespace: namespace.into(),
            queue,
        }
    }

    /// Puts an event behind those already waiting. Never blocks.
    pub(crate) fn publish(&self, event: &TaskEvent) {
        tracing::debug!(topic = event.topic(), "event {event:?}");
        let Some(queue) = &self.queue else { return };
        let envelope = event.envelope(&self.namespace, SystemTime::now());
        let mut state = queue.lock();
        if state.waiting.len() >= MAX_WAITING {
            state.waiting.pop_front();
            state.dropped += 1;
        }
        state.waiting.push_back((Instant::now(), envelope));
        drop(state);
        queue.added.notify_one();
    }

    /// Waits until containerd has every event, but at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let Some(queue) = &self.queue else { return };
        let flushed = timeout(limit, async {
            loop {
                let idle = queue.idle.notified();
                if queue.lock().is_idle() {
                    return;
                }
                idle.await;
            }
        });
        if flushed.await.is_err() {
            let left = queue.lock().waiting.len() + 1;
            tracing::warn!("{left} events could not be delivered to containerd before the end");
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.in_flight
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next event, when there is one.
    async fn next(&self) -> (Instant, Envelope) {
        loop {
            let added = self.added.notified();
            {
                let mut state = self.lock();
                let dropped = std::mem::take(&mut state.dropped);
                if dropped > 0 {
                    tracing::warn!("{dropped} events dropped: containerd was away for too long");
                }
                if let Some(next) = state.waiting.pop_front() {
                    state.in_flight = true;
                    return next;
                }
                state.in_flight = false;
            }
            self.idle.notify_waiters();
            added.await;
        }
    }
}

async fn run(queue: Arc<Queue>, containerd: PathBuf) {
    let mut client = None;
    loop {
        let (since, envelope) = queue.next().await;
        let mut pause = FIRST_PAUSE;
        let mut request = ForwardRequest::new();
        request.envelope = Some(envelope).into();
        while since.elapsed() < MAX_AGE {
            match forward(&mut client, &containerd, &request).await {
                Ok(()) => break,
                Err(Failure::Refused(why)) => {
                    tracing::error!("containerd refused event {}: {why}", request.envelope.topic);
                    break;
                }
                Err(Failure::Away(why)) => {
                    tracing::debug!("event {} not delivered: {why}", request.envelope.topic);
                    client = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }
}

async fn forward(
    client: &mut Option<EventsClient>,
    containerd: &PathBuf,
    request: &ForwardRequest,
) -> Result<(), Failure> {
    let connected = match client {
        Some(connected) => connected,
        None => {
            // Not the client's own connect, which blocks while containerd's backlog is full.
            let stream = UnixStream::connect(containerd).await.map_err(|error| {
                Failure::Away(format!(
                    "cannot connect to {}: {error}",
                    containerd.display()
                ))
            })?;
            client.insert(EventsClient::new(Client::new(Socket::from(stream))))
        }
    };
    let context = ttrpc::context::with_duration(FORWARD_TIMEOUT);
    match connected.forward(context, request).await {
        Ok(_) => Ok(()),
        Err(ttrpc::Error::RpcStatus(status)) if !is_passing(&status) => {
            Err(Failure::Refused(status.message))
        }
        Err(error) => Err(Failure::Away(error.to_string())),
    }
}

/// Whether the same event may be taken later.
fn is_passing(status: &ttrpc::Status) -> bool {
    use ttrpc::Code;
    [
        Code::UNAVAILABLE,
        Code::DEADLINE_EXCEEDED,
        Code::CANCELLED,
        Code::RESOURCE_EXHAUSTED,
    ]
    .into_iter()
    .any(|code| status.code() == code)
}

#[cfg(test)]
#[path = "publisher_test.rs"]
mod tests;
