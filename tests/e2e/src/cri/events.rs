//! What containerd tells a kubelet of its containers without being asked.

use std::io::BufReader;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Deserializer, Value};

/// How long an event may be on its way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener, until this goes out of scope.
#[derive(Debug)]
pub struct CriEvents {
    crictl: Child,
    events: Receiver<Value>,
}

impl CriEvents {
    /// Runs `command`, which prints one event after the other.
    pub(super) fn listen(mut command: Command) -> Self {
        let mut crictl = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("crictl can be run");
        let output = crictl.stdout.take().expect("it is a pipe");
        let (told, events) = mpsc::channel();
        thread::spawn(move || {
            let events = Deserializer::from_reader(BufReader::new(output)).into_iter();
            // Ends when crictl is killed or nobody listens any more.
            for event in events.map_while(Result::ok) {
                if told.send(event).is_err() {
                    return;
                }
            }
        });
        Self { crictl, events }
    }

    /// What is told of the container `id`, in order, up to its removal: `CREATED`, `STARTED`, …
    ///
    /// # Panics
    /// Panics when nothing is told of its removal.
    #[must_use]
    #[track_caller]
    pub fn of(&self, id: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "DELETED") {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|error| panic!("{error}; of {id} only {heard:?}"));
            if event.get("containerId").and_then(Value::as_str) == Some(id) {
                let kind = event.get("containerEventType").and_then(Value::as_str);
                let kind = kind.unwrap_or_default();
                let kind = kind.strip_prefix("CONTAINER_").unwrap_or(kind);
                heard.push(kind.strip_suffix("_EVENT").unwrap_or(kind).to_owned());
            }
        }
        heard
    }
}

impl Drop for CriEvents {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.crictl.kill();
        let _ = self.crictl.wait();
    }
}
