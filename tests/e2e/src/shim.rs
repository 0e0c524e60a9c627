//! A shim's own socket, for calls that `ctr` cannot make: several at once, with a short deadline,
//! or while the guest stands still.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::{Client, TaskClient, api};
use serde_json::json;
use ttrpc::Code;
use ttrpc::context::{self, Context};

/// Where containerd keeps the bundles of its namespace `default`.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/default";
/// Longer than any call takes in emulation: one that is never answered fails its test then,
/// instead of holding it up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What containerd calls the JSON of a process.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A connection to the shim of a container. Its calls may be made from several threads at once.
///
/// In each, `exec` is the exec id, empty for the container's init process.
pub struct Shim {
    id: String,
    socket: PathBuf,
    tasks: TaskClient,
    deadline: Duration,
}

impl Shim {
    /// Connects to the shim of a container, at the address in its bundle.
    ///
    /// # Panics
    /// Panics when the bundle has no address, or nobody listens there.
    #[must_use]
    #[track_caller]
    pub fn of(id: &str) -> Self {
        let file = bundle(id).join("address");
        let address = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        let client = Client::connect(&address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Self {
            id: id.to_owned(),
            socket: address.trim_start_matches("unix://").into(),
            tasks: TaskClient::new(client),
            deadline: PATIENCE,
        }
    }

    /// The same connection for calls that are given up after `deadline`. A call that is given up
    /// is answered with an error that has no [`code`].
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self {
            id: self.id.clone(),
            socket: self.socket.clone(),
            tasks: self.tasks.clone(),
            deadline,
        }
    }

    /// The same connection for calls about another container of its pod.
    #[must_use]
    pub fn about(&self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            socket: self.socket.clone(),
            tasks: self.tasks.clone(),
            deadline: self.deadline,
        }
    }

    /// The socket, for who wants to speak to it byte by byte.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Connect.
    ///
    /// # Errors
    /// Those of the call.
    pub fn connect(&self) -> ttrpc::Result<api::ConnectResponse> {
        let mut request = api::ConnectRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.connect(self.context(), &request)
    }

    /// State.
    ///
    /// # Errors
    /// Those of the call.
    pub fn state(&self, exec: &str) -> ttrpc::Result<api::StateResponse> {
        let mut request = api::StateRequest::new();
        request.id.clone_from(&self.id);
        exec.clone_into(&mut request.exec_id);
        self.tasks.state(self.context(), &request)
    }

    /// Pids.
    ///
    /// # Errors
    /// Those of the call.
    pub fn pids(&self) -> ttrpc::Result<api::PidsResponse> {
        let mut request = api::PidsRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.pids(self.context(), &request)
    }

    /// Wait.
    ///
    /// # Errors
    /// Those of the call.
    pub fn wait(&self, exec: &str) -> ttrpc::Result<api::WaitResponse> {
        let mut request = api::WaitRequest::new();
        request.id.clone_from(&self.id);
        exec.clone_into(&mut request.exec_id);
        self.tasks.wait(self.context(), &request)
    }

    /// Exec: registers a process without standard streams.
    ///
    /// # Errors
    /// Those of the call.
    pub fn exec(&self, exec: &str, args: &[&str]) -> ttrpc::Result<api::Empty> {
        self.exec_with(exec, args, ["", "", ""])
    }

    /// Like [`Shim::exec`], with places for standard input, output and error.
    ///
    /// # Errors
    /// Those of the call.
    pub fn exec_with(
        &self,
        exec: &str,
        args: &[&str],
        [stdin, stdout, stderr]: [&str; 3],
    ) -> ttrpc::Result<api::Empty> {
        self.exec_able(exec, args, [stdin, stdout, stderr], &[])
    }

    /// Like [`Shim::exec_with`], with capabilities.
    ///
    /// # Errors
    /// Those of the call.
    pub fn exec_able(
        &self,
        exec: &str,
        args: &[&str],
        [stdin, stdout, stderr]: [&str; 3],
        able: &[&str],
    ) -> ttrpc::Result<api::Empty> {
        let process = json!({
            "args": args,
            "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": able, "permitted": able, "effective": able},
        });
        let mut request = api::ExecProcessRequest::new();
        request.id.clone_from(&self.id);
        exec.clone_into(&mut request.exec_id);
        stdin.clone_into(&mut request.stdin);
        stdout.clone_into(&mut request.stdout);
        stderr.clone_into(&mut request.stderr);
        let spec = request.spec.mut_or_insert_default();
        PROCESS.clone_into(&mut spec.type_url);
        spec.value = process.to_string().into_bytes();
        self.tasks.exec(self.context(), &request)
    }

    /// Start.
    ///
    /// # Errors
    /// Those of the call.
    pub fn start(&self, exec: &str) -> ttrpc::Result<api::StartResponse> {
        let mut request = api::StartRequest::new();
        request.id.clone_from(&self.id);
        exec.clone_into(&mut request.exec_id);
        self.tasks.start(self.context(), &request)
    }

    /// Kill, of this process only.
    ///
    /// # Errors
    /// Those of the call.
    pub fn kill(&self, exec: &str, signal: u32) -> ttrpc::Result<api::Empty> {
        let mut request = api::KillRequest::new();
        request.id.clone_from(&self.id);
        exec.clone_into(&mut request.exec_id);
        request.signal = signal;
        self.tasks.kill(self.context(), &request)
    }

    /// Pause.
    ///
    /// # Errors
    /// Those of the call.
    pub fn pause(&self) -> ttrpc::Result<api::Empty> {
        let mut request = api::PauseRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.pause(self.context(), &request)
    }

    /// Resume.
    ///
    /// # Errors
    /// Those of the call.
    pub fn resume(&self) -> ttrpc::Result<api::Empty> {
        let mut request = api::ResumeRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.resume(self.context(), &request)
    }

    /// Delete.
    ///
    /// # Errors
    /// Those of the call.
    pub fn delete(&self, exec: &str) -> ttrpc::Result<api::DeleteResponse> {
        let mut request = api::DeleteRequest::new();
        request.id.clone_from(&self.id);
        exec.clone_into(&mut request.exec_id);
        self.tasks.delete(self.context(), &request)
    }

    /// Shutdown, which ends a shim that has no container left.
    ///
    /// # Errors
    /// Those of the call.
    pub fn shutdown(&self) -> ttrpc::Result<api::Empty> {
        let mut request = api::ShutdownRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.shutdown(self.context(), &request)
    }

    /// Every call there is, for those that have no method here.
    #[must_use]
    pub fn tasks(&self) -> &TaskClient {
        &self.tasks
    }

    /// A deadline for one call.
    #[must_use]
    pub fn context(&self) -> Context {
        context::with_duration(self.deadline)
    }
}

/// The bundle of a container in containerd's namespace `default`.
#[must_use]
pub fn bundle(id: &str) -> PathBuf {
    Path::new(BUNDLES).join(id)
}

/// The code with which the shim refused a call; `None` when it did not refuse it, or nothing came
/// back in time.
#[must_use]
pub fn code<T>(result: &ttrpc::Result<T>) -> Option<Code> {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code.enum_value().ok(),
        _ => None,
    }
}
