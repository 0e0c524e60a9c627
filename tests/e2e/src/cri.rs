//! containerd's CRI plug-in, driven as a kubelet drives it: pods, and containers in them.
//!
//! `crictl`, the client of the Kubernetes project, does the talking. `cargo verify` puts it beside
//! the test program where it can be built.

mod container;
mod forwarding;
mod pod;

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

pub use container::{CriContainer, CriStatus};
pub use forwarding::Forwarding;
pub use pod::{PodConfig, PodSandbox};

use crate::Finished;

/// Where containerd listens, for CRI too.
const ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
/// How many seconds a call may take; a pod's machine starts in it, in emulation.
const PATIENCE: u32 = 120;

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

    /// `crictl ARGS…`, run to its end.
    ///
    /// # Panics
    /// Panics when it cannot be started.
    #[must_use]
    pub fn call(&self, args: &[&str]) -> Finished {
        let output = self.command(args).output().expect("crictl can be run");
        Finished {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
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
