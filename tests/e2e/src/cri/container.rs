//! A container of a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cri, PodSandbox, merge};
use crate::{BUSYBOX, Finished, Terminal};

/// How long a container may take to end that is about to.
const PATIENCE: Duration = Duration::from_secs(120);

/// A container in a pod sandbox. It is removed with its pod.
#[derive(Debug)]
pub struct CriContainer {
    cri: Cri,
    /// Its id.
    pub id: String,
    log: PathBuf,
}

/// What ContainerStatus says of a container that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriStatus {
    /// Its exit code.
    pub exit_code: i64,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
}

impl CriContainer {
    #[track_caller]
    pub(super) fn create(pod: &PodSandbox, name: &str, args: &[&str], more: &Value) -> Self {
        let (file, log) = Self::written(pod, name, args, more);
        let created = pod.cri.call(&["create", &pod.id, &file, &pod.config]);
        Self {
            cri: pod.cri.clone(),
            id: created.ok().text(),
            log,
        }
    }

    /// CreateContainer and StartContainer where one of them is to fail: what it says.
    ///
    /// # Panics
    /// Panics when the container starts.
    #[must_use]
    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is a literal where it is used"
    )]
    pub fn refused(pod: &PodSandbox, name: &str, args: &[&str], more: Value) -> String {
        let (file, _) = Self::written(pod, name, args, &more);
        let created = pod.cri.call(&["create", &pod.id, &file, &pod.config]);
        if created.code != 0 {
            return created.failure();
        }
        pod.cri.call(&["start", &created.text()]).failure()
    }

    fn written(pod: &PodSandbox, name: &str, args: &[&str], more: &Value) -> (String, PathBuf) {
        let mut config = json!({
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": BUSYBOX},
            "command": args,
            "linux": {"security_context": {"namespace_options":
                {"network": 0, "pid": u8::from(!pod.shares_processes), "ipc": 0}}},
        });
        merge(&mut config, more);
        let attempt = number(&config, "/metadata/attempt").to_string();
        let log = format!("{name}-{attempt}.log");
        merge(&mut config, &json!({"log_path": log}));
        let file = format!("{}-{name}-{attempt}.json", pod.id);
        (pod.cri.file(&file, &config), pod.log(&log))
    }

    /// ExecSync: runs ARGS in it to their end.
    #[must_use]
    pub fn exec(&self, args: &[&str]) -> Finished {
        let words = [&["exec", "--sync", &self.id], args].concat();
        self.cri.call(&words)
    }

    /// ExecSync with an end after `seconds`.
    #[must_use]
    pub fn exec_for(&self, seconds: u32, args: &[&str]) -> Finished {
        let timeout = seconds.to_string();
        let words = [&["exec", "--sync", "--timeout", &timeout, &self.id], args].concat();
        self.cri.call(&words)
    }

    /// Exec, through containerd's streaming server: `stdin` goes in, the streams come back.
    #[must_use]
    pub fn stream(&self, args: &[&str], stdin: &[u8]) -> Finished {
        let words = [&["exec", "--interactive", &self.id], args].concat();
        self.cri.feed(&words, stdin)
    }

    /// Exec with a terminal of 24 rows and 80 columns.
    #[must_use]
    pub fn terminal(&self, args: &[&str]) -> Terminal {
        let words = [&["exec", "--interactive", "--tty", &self.id], args].concat();
        self.cri.terminal(&words)
    }

    /// Attach: `stdin` goes to its first process, until that closes its streams.
    #[must_use]
    pub fn attach(&self, stdin: &[u8]) -> Finished {
        self.cri.feed(&["attach", "--stdin", &self.id], stdin)
    }

    /// Attach to its terminal, from one of 24 rows and 80 columns.
    #[must_use]
    pub fn attached_terminal(&self) -> Terminal {
        self.cri.terminal(&["attach", "--stdin", "--tty", &self.id])
    }

    /// What a shell in it prints for a script that must succeed.
    ///
    /// # Panics
    /// Panics when it does not.
    #[must_use]
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.exec(&["sh", "-c", script]).ok().text()
    }

    /// `CONTAINER_RUNNING`, `CONTAINER_EXITED`, …
    ///
    /// # Panics
    /// Panics when the container is not known.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> String {
        text(&self.status(), "/status/state")
    }

    #[track_caller]
    fn status(&self) -> Value {
        self.cri.json(&["inspect", "-o", "json", &self.id])
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// Panics when it does not.
    #[must_use]
    #[track_caller]
    pub fn ended(&self) -> CriStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if text(&status, "/status/state") == "CONTAINER_EXITED" {
                return CriStatus {
                    exit_code: number(&status, "/status/exitCode"),
                    reason: text(&status, "/status/reason"),
                };
            }
            assert!(Instant::now() < deadline, "it does not end: {status}");
        }
    }

    /// StopContainer: SIGTERM, and SIGKILL when `grace` seconds are over.
    #[must_use]
    pub fn stop(&self, grace: u32) -> Finished {
        let timeout = grace.to_string();
        self.cri.call(&["stop", "--timeout", &timeout, &self.id])
    }

    /// RemoveContainer.
    #[must_use]
    pub fn remove(&self) -> Finished {
        self.cri.call(&["rm", &self.id])
    }

    /// UpdateContainerResources with options of `crictl update`.
    #[must_use]
    pub fn update(&self, options: &[&str]) -> Finished {
        let words = [&["update"], options, &[self.id.as_str()]].concat();
        self.cri.call(&words)
    }

    /// What ContainerStats says.
    ///
    /// # Panics
    /// Panics when it fails.
    #[must_use]
    #[track_caller]
    pub fn stats(&self) -> Value {
        self.cri.json(&["stats", "-o", "json", "--id", &self.id])
    }

    /// Rotates its log as the kubelet does: moves the file and has containerd open another one
    /// (ReopenContainerLog). The lines of the moved one.
    ///
    /// # Panics
    /// Panics when that fails.
    #[must_use]
    #[track_caller]
    pub fn rotate_log(&self) -> Vec<String> {
        let moved = self.log.with_extension("log.1");
        fs::rename(&self.log, &moved).expect("containerd writes a log");
        let _ = self.cri.call(&["logs", "--reopen", &self.id]).ok();
        lines(&moved)
    }

    /// The lines of its log.
    ///
    /// # Panics
    /// Panics when there is none.
    #[must_use]
    #[track_caller]
    pub fn log(&self) -> Vec<String> {
        lines(&self.log)
    }
}

fn lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).expect("containerd writes a log");
    text.lines().map(str::to_owned).collect()
}

fn text(value: &Value, path: &str) -> String {
    let text = value.pointer(path).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn number(value: &Value, path: &str) -> i64 {
    let number = value.pointer(path).and_then(Value::as_i64);
    number.unwrap_or_default()
}
