//! What containerd tells the world about its tasks.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::ctr::Ctr;

/// How long an event may take. In emulation even a process that ended is noticed late.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts to make containerd publish something.
const NUDGE: Duration = Duration::from_millis(200);

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// For example `/tasks/exit`.
    pub topic: String,
    /// Its fields; those that are zero are left out.
    pub body: Value,
}

impl Event {
    /// A field that is text; empty when it is left out.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.body
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A field that is a number.
    #[must_use]
    pub fn number(&self, field: &str) -> u64 {
        self.body
            .get(field)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }

    /// The topic without `/tasks/`, and the process: the exec id, or the container's.
    #[must_use]
    pub fn short(&self) -> (&str, &str) {
        let topic = self.topic.strip_prefix("/tasks/").unwrap_or(&self.topic);
        let process = ["exec_id", "id", "container_id"]
            .into_iter()
            .map(|field| self.text(field))
            .find(|text| !text.is_empty());
        (topic, process.unwrap_or_default())
    }
}

/// A running `ctr events`.
#[derive(Debug)]
pub struct Events {
    ctr: Child,
    received: Receiver<Event>,
}

impl Events {
    /// Listens from now on: what happens after this call is received.
    ///
    /// # Panics
    /// Panics when `ctr` cannot be run.
    #[must_use]
    pub fn watch() -> Self {
        let mut ctr = Command::new("ctr")
            .arg("events")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ctr is installed in the testbed");
        let output = BufReader::new(ctr.stdout.take().expect("standard output is a pipe"));
        let (sender, received) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(event) = parse(&line)
                    && sender.send(event).is_err()
                {
                    return;
                }
            }
        });
        let events = Self { ctr, received };
        // ctr does not say when it listens. A namespace's label is heard of when it does.
        let heard = |events: &Self| {
            let event = events.received.recv_timeout(NUDGE);
            event.is_ok_and(|event| event.topic == "/namespaces/update")
        };
        for nudge in 0.. {
            let label = format!("caisson-e2e={nudge}");
            let _ = Ctr::new(&["namespaces", "label", "default", &label])
                .finish()
                .ok();
            if heard(&events) {
                break;
            }
        }
        events
    }

    /// The next events of a container's tasks, up to and including the first that is `last`.
    ///
    /// # Panics
    /// Panics when that does not come.
    #[must_use]
    #[track_caller]
    pub fn until(&self, container: &str, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let next = self.received.recv_timeout(PATIENCE);
            let event = next.unwrap_or_else(|_| panic!("nothing came after {events:#?}"));
            if event.text("container_id") != container || !event.topic.starts_with("/tasks/") {
                continue;
            }
            let found = last(&event);
            events.push(event);
            if found {
                return events;
            }
        }
    }

    /// The events of a container's tasks up to its task's deletion.
    ///
    /// # Panics
    /// Panics when it is not deleted.
    #[must_use]
    #[track_caller]
    pub fn until_deleted(&self, container: &str) -> Vec<Event> {
        self.until(container, |event| event.topic == "/tasks/delete")
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.ctr.kill();
        let _ = self.ctr.wait();
    }
}

/// A line of `ctr events`: date, time, zone, namespace, topic, JSON.
fn parse(line: &str) -> Option<Event> {
    let topic = line.find(" /")? + 1;
    let (topic, body) = line.get(topic..)?.split_once(' ')?;
    Some(Event {
        topic: topic.to_owned(),
        body: serde_json::from_str(body).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_of_ctr_is_understood() {
        let line = "2026-11-27 12:00:00.5 +0000 UTC default /tasks/exit \
                    {\"container_id\":\"c\",\"id\":\"e\",\"pid\":7,\"exit_status\":137}";
        let event = parse(line).expect("it is an event");
        assert_eq!(event.short(), ("exit", "e"));
        assert_eq!(event.number("exit_status"), 137);
        assert_eq!(parse("no event"), None);
    }
}
