//! A pod sandbox.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Cri, CriContainer, Forwarding, merge};
use crate::Finished;

/// The runtime handler under test, as containerd's configuration names it.
const HANDLER: &str = "caisson";
/// The one whose pods are those of containerd's sandbox service.
pub(super) const SANDBOX_HANDLER: &str = "caisson-sandbox";
/// Names another one, to run tests with it.
const VARIABLE: &str = "CAISSON_HANDLER";

/// A pod to run: the PodSandboxConfig of CRI.
#[derive(Debug, Clone)]
pub struct PodConfig {
    name: String,
    handler: String,
    value: Value,
}

impl PodConfig {
    /// A pod with the namespaces that Kubernetes gives one by default: those of network and IPC
    /// for the pod, that of processes for each container.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let value = json!({
            "metadata": {"name": name, "uid": name, "namespace": "default", "attempt": 0},
            "hostname": name,
            "linux": {"security_context": {"namespace_options": namespaces(1)}},
        });
        Self {
            name: name.to_owned(),
            value,
            handler: std::env::var(VARIABLE).unwrap_or_else(|_| HANDLER.to_owned()),
        }
    }

    /// With another runtime handler than the one under test.
    #[must_use]
    pub fn with_handler(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.handler);
        self
    }

    /// As a pod of containerd's sandbox service; see [`Cri::offers_sandboxes`].
    #[must_use]
    pub fn in_sandbox_service(self) -> Self {
        self.with_handler(SANDBOX_HANDLER)
    }

    /// With all containers in one process namespace (`shareProcessNamespace`).
    #[must_use]
    pub fn with_shared_processes(self) -> Self {
        self.with(json!({"linux": {"security_context": {"namespace_options": namespaces(0)}}}))
    }

    /// With more of the configuration.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is a literal where it is used"
    )]
    pub fn with(mut self, more: Value) -> Self {
        merge(&mut self.value, &more);
        self
    }
}

/// POD is 0, CONTAINER is 1 (NamespaceMode of CRI).
fn namespaces(processes: u32) -> Value {
    json!({"network": 0, "pid": processes, "ipc": 0})
}

/// A running pod sandbox; stopped and removed with all its containers when it goes out of scope.
#[derive(Debug)]
pub struct PodSandbox {
    pub(super) cri: Cri,
    /// Its id.
    pub id: String,
    pub(super) config: String,
    pub(super) shares_processes: bool,
    logs: PathBuf,
}

impl PodSandbox {
    /// RunPodSandbox.
    ///
    /// # Panics
    /// Panics when the pod does not run.
    #[must_use]
    #[track_caller]
    pub fn run(cri: &Cri, config: &PodConfig) -> Self {
        let (file, logs, value) = Self::written(cri, config);
        let run = ["runp", "--runtime", &config.handler, &file];
        let id = cri.call(&run).ok().text();
        let pid = "/linux/security_context/namespace_options/pid";
        Self {
            cri: cri.clone(),
            id,
            config: file,
            shares_processes: value.pointer(pid) == Some(&json!(0)),
            logs,
        }
    }

    /// RunPodSandbox where it is to fail: what it says.
    ///
    /// # Panics
    /// Panics when the pod runs.
    #[must_use]
    #[track_caller]
    pub fn refused(cri: &Cri, config: &PodConfig) -> String {
        let (file, ..) = Self::written(cri, config);
        let run = ["runp", "--runtime", &config.handler, &file];
        cri.call(&run).failure()
    }

    fn written(cri: &Cri, config: &PodConfig) -> (String, PathBuf, Value) {
        let logs = cri.folder.path().join(format!("{}-logs", config.name));
        fs::create_dir_all(&logs).expect("there is room for logs");
        let mut value = config.value.clone();
        merge(&mut value, &json!({"log_directory": logs}));
        let file = cri.file(&format!("{}.json", config.name), &value);
        (file, logs, value)
    }

    /// Creates and starts a container that runs ARGS in the busybox image.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[must_use]
    #[track_caller]
    pub fn start(&self, name: &str, args: &[&str]) -> CriContainer {
        self.start_with(name, args, json!({}))
    }

    /// Like [`PodSandbox::start`], with more of the ContainerConfig of CRI.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[must_use]
    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is a literal where it is used"
    )]
    pub fn start_with(&self, name: &str, args: &[&str], more: Value) -> CriContainer {
        let container = CriContainer::create(self, name, args, &more);
        let _ = self.cri.call(&["start", &container.id]).ok();
        container
    }

    /// Where a container of this name writes its log.
    pub(super) fn log(&self, file: &str) -> PathBuf {
        self.logs.join(file)
    }

    /// The process of the host that stands for the pod.
    ///
    /// # Panics
    /// Panics when the pod is not known.
    #[must_use]
    #[track_caller]
    pub fn host_pid(&self) -> i32 {
        let answer = self.cri.json(&["inspectp", "-o", "json", &self.id]);
        let pid = answer.pointer("/info/pid").and_then(Value::as_i64);
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("no pid in {answer}"))
    }

    /// `SANDBOX_READY` or `SANDBOX_NOTREADY`.
    ///
    /// # Panics
    /// Panics when the pod is not known.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> String {
        let answer = self.cri.json(&["inspectp", "-o", "json", &self.id]);
        let state = answer.pointer("/status/state").and_then(Value::as_str);
        state
            .unwrap_or_else(|| panic!("no state in {answer}"))
            .to_owned()
    }

    /// Its address on the network, as CNI gave it and CRI tells it.
    ///
    /// # Panics
    /// Panics when it has none.
    #[must_use]
    #[track_caller]
    pub fn address(&self) -> String {
        let answer = self.cri.json(&["inspectp", "-o", "json", &self.id]);
        let address = answer.pointer("/status/network/ip").and_then(Value::as_str);
        address
            .filter(|address| !address.is_empty())
            .unwrap_or_else(|| panic!("no address in {answer}"))
            .to_owned()
    }

    /// Starts to forward a port of the host to one of the pod, until the answer is dropped.
    ///
    /// # Panics
    /// Panics when crictl cannot be started or does not say that it forwards.
    #[must_use]
    #[track_caller]
    pub fn forward(&self, host: u16, pod: u16) -> Forwarding {
        let mut command = self.cri.command(&["port-forward", &self.id]);
        command.arg(format!("{host}:{pod}"));
        Forwarding::start(command)
    }

    /// What PodSandboxStats says.
    ///
    /// # Panics
    /// Panics when it fails.
    #[must_use]
    #[track_caller]
    pub fn stats(&self) -> Value {
        self.cri.json(&["statsp", "-o", "json", "--id", &self.id])
    }

    /// StopPodSandbox.
    #[must_use]
    pub fn stop(&self) -> Finished {
        self.cri.call(&["stopp", &self.id])
    }
}

impl Drop for PodSandbox {
    fn drop(&mut self) {
        let _ = self.cri.call(&["stopp", &self.id]);
        let removed = self.cri.call(&["rmp", "--force", &self.id]);
        if !std::thread::panicking() {
            let _ = removed.ok();
        }
    }
}
