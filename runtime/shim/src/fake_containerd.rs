//! containerd's event service for tests, with the faults it can have.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Events, create_events};
use tokio::sync::mpsc;
use tokio::time::timeout;
use ttrpc::r#async::{Server, TtrpcContext};

/// What to answer to one Forward call instead of taking it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Refuse it for good.
    Refuse,
    /// Say that it may work later.
    Later,
}

/// A listening event service.
pub(crate) struct FakeContainerd {
    server: Server,
    path: PathBuf,
    received: mpsc::UnboundedReceiver<Envelope>,
}

struct Service {
    faults: Mutex<VecDeque<Fault>>,
    sender: mpsc::UnboundedSender<Envelope>,
}

#[async_trait]
impl Events for Service {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let code = match self.faults.lock().unwrap().pop_front() {
            Some(Fault::Refuse) => ttrpc::Code::INVALID_ARGUMENT,
            Some(Fault::Later) => ttrpc::Code::UNAVAILABLE,
            None => {
                self.sender.send(request.envelope.unwrap()).unwrap();
                return Ok(Empty::new());
            }
        };
        Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "fault")))
    }
}

impl FakeContainerd {
    /// Listens in `dir`.
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::with_faults(dir, []).await
    }

    /// Listens in `dir`; the first calls meet these faults.
    pub(crate) async fn with_faults(dir: &Path, faults: impl IntoIterator<Item = Fault>) -> Self {
        let path = Self::address(dir);
        let (sender, received) = mpsc::unbounded_channel();
        let service = Service {
            faults: Mutex::new(faults.into_iter().collect()),
            sender,
        };
        let _ = std::fs::remove_file(&path);
        let mut server = Server::new()
            .bind(&format!("unix://{}", path.display()))
            .unwrap()
            .register_service(create_events(Arc::new(service)));
        server.start().await.unwrap();
        Self {
            server,
            path,
            received,
        }
    }

    /// Where it listens.
    pub(crate) fn address(dir: &Path) -> PathBuf {
        dir.join("containerd.sock.ttrpc")
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Envelope {
        timeout(Duration::from_secs(10), self.received.recv())
            .await
            .expect("an event comes")
            .unwrap()
    }

    /// The topics of the next `count` events, without `/tasks/`.
    pub(crate) async fn topics(&mut self, count: usize) -> Vec<String> {
        let mut topics = Vec::new();
        for _ in 0..count {
            let topic = self.next().await.topic;
            topics.push(topic.strip_prefix("/tasks/").unwrap().to_owned());
        }
        topics
    }

    /// Whether no event waits.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.received.try_recv().is_err()
    }

    /// Stops, as containerd does for a restart; what was received stays readable.
    pub(crate) async fn stop(mut self) -> mpsc::UnboundedReceiver<Envelope> {
        self.server.shutdown().await.unwrap();
        std::fs::remove_file(&self.path).unwrap();
        self.received
    }
}
