//! containerd's CRI plug-in, driven as a kubelet drives it: pods, and containers in them.
//!
//! `crictl`, the client of the Kubernetes project, does the talking. `cargo verify` puts it beside
//! the test program where it can be built.

mod container;
mod events;
mod forwarding;
mod pod;

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

pub use container::{CriContainer, CriStatus};
pub use events::CriEvents;
pub use forwarding::Forwarding;
pub use pod::{PodConfig, PodSandbox};

use crate::ctr::run_to_end;
use crate::{Finished, Terminal};

/// Where containerd listens, for CRI too.
const ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
/// How many seconds a call may take; a pod's machine starts in it, in emulation.
const PATIENCE: u32 = 120;

/// How often crictl tries to reach containerd. Each process of it makes a connection of its own and
/// waits for it not long enough where 50 start at once; a kubelet has one for all its calls.
const CONNECTIONS: usize = 20;
/// What it says then, before it has called anything.
const NOT_CONNECTED: &str = "validate service connection";

/// The kubelet of a test.
#[derive(Debug, Clone)]
pub struct Cri {
    program: String,
    /// crictl's own configuration.
    config: String,
    /// Configurations of pods, and logs.
    folder: Arc<TempDir>,
}

impl Cri {
    /// The kubelet, if there is a `crictl`; says why not otherwise.
    ///
    /// # Panics
    /// Panics when there can be no directory for its files.
    #[must_use]
    pub fn connect() -> Option<Self> {
        Self::patient(PATIENCE)
    }

    /// Like [`Cri::connect`], with as many seconds as a call may take.
    ///
    /// # Panics
    /// Panics when there can be no directory for its files.
    #[must_use]
    pub fn patient(seconds: u32) -> Option<Self> {
        let program = std::env::current_exe().expect("a program knows its own file");
        let program = program.with_file_name("crictl");
        if !program.exists() {
            println!(
                "skipped: there is no {}: install Go, and `cargo verify` builds it",
                program.display()
            );
            return None;
        }
        let folder = TempDir::new().expect("there is room for files");
        let config = folder.path().join("crictl.yaml");
        let settings = json!({"runtime-endpoint": ENDPOINT, "image-endpoint": ENDPOINT,
            "timeout": seconds});
        // YAML is a superset of JSON.
        std::fs::write(&config, settings.to_string()).expect("there is room for a file");
        Some(Self {
            program: program.display().to_string(),
            config: config.display().to_string(),
            folder: Arc::new(folder),
        })
    }

    /// Whether containerd has a runtime handler whose pods are those of its sandbox service; says
    /// why not otherwise.
    ///
    /// # Panics
    /// Panics when containerd does not answer.
    #[must_use]
    #[track_caller]
    pub fn offers_sandboxes(&self) -> bool {
        let info = self.json(&["info"]);
        let offered = info
            .pointer("/config/containerd/runtimes")
            .is_some_and(|handlers| handlers.get(pod::SANDBOX_HANDLER).is_some());
        if !offered {
            println!("skipped: this containerd has no sandbox service");
        }
        offered
    }

    /// `crictl ARGS…`, run to its end.
    ///
    /// # Panics
    /// Panics when it cannot be started.
    #[must_use]
    pub fn call(&self, args: &[&str]) -> Finished {
        self.feed(args, &[])
    }

    /// Like [`Cri::call`], with something to read.
    fn feed(&self, args: &[&str], stdin: &[u8]) -> Finished {
        let mut left = CONNECTIONS;
        loop {
            left -= 1;
            let finished = run_to_end(self.command(args), stdin.to_vec());
            if left == 0 || !finished.stderr.contains(NOT_CONNECTED) {
                return finished;
            }
        }
    }

    /// The program on a terminal.
    fn terminal(&self, args: &[&str]) -> Terminal {
        let words = [&["--config", self.config.as_str()], args].concat();
        Terminal::run(&self.program, &words, 24, 80)
    }

    /// What containerd tells of containers (GetContainerEvents), from the first one that nobody was
    /// told yet.
    ///
    /// # Panics
    /// Panics when crictl cannot be run.
    #[must_use]
    pub fn events(&self) -> CriEvents {
        CriEvents::listen(self.command(&["events"]))
    }

    /// The names of the networks that containerd gives pods.
    ///
    /// # Panics
    /// Panics when it does not tell.
    #[must_use]
    #[track_caller]
    pub fn networks(&self) -> Vec<String> {
        let info = self.json(&["info", "-o", "json"]);
        let networks = info
            .pointer("/cniconfig/Networks")
            .and_then(Value::as_array);
        let name = |network: &Value| {
            let name = network.pointer("/Config/Name").and_then(Value::as_str);
            name.map(str::to_owned)
        };
        networks.into_iter().flatten().filter_map(name).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--config", &self.config]).args(args);
        command
    }

    /// What a call answers in JSON.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let text = self.call(args).ok().text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"))
    }

    /// Writes a configuration for a call.
    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content.to_string()).expect("there is room for a file");
        path.display().to_string()
    }
}

/// Puts the values of `extra` into `base`, objects one by one.
fn merge(base: &mut Value, extra: &Value) {
    match (base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(base.entry(key.clone()).or_insert(json!(null)), value);
            }
        }
        (base, extra) => *base = extra.clone(),
    }
}
