//! Starting processes and recording their ends.

use std::sync::Arc;
use std::time::Duration;

use caisson_sandbox::CreateExec;
use oci_spec::runtime::Process as ProcessSpec;
use tokio::time::{Instant, timeout, timeout_at};

use super::{DRAIN_TIMEOUT, Pod};
use crate::args::is_identifier;
use crate::container::Container;
use crate::error::TaskError;
use crate::event::TaskEvent;
use crate::fail_point::Point;
use crate::process::{Exit, KILLED, NOT_STARTED, Process, ProcessKey, State};
use crate::stdio::{Stdio, StdioPaths};
use crate::vm::{self, Vm};

/// How long after the init process its execs may take to end. The guest's kernel kills them with
/// it, so this only bounds what a broken guest can hold up.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);

/// SIGKILL.
const SIGKILL: u32 = 9;

/// An exec that containerd asks for.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    /// Its name.
    pub(crate) key: ProcessKey,
    /// What to run.
    pub(crate) spec: ProcessSpec,
    /// Where its streams go.
    pub(crate) stdio: StdioPaths,
}

impl Pod {
    /// Registers an exec. The guest hears of it when it is started.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], [`TaskError::Exists`], or [`TaskError::State`] when the container
    /// is paused or has ended.
    pub(crate) fn exec(&self, request: ExecRequest) -> Result<(), TaskError> {
        let ExecRequest {
            key,
            mut spec,
            stdio,
        } = request;
        if !is_identifier(&key.exec) {
            return Err(TaskError::Invalid(format!(
                "exec id {:?} is not an identifier: use 1 to 255 letters, digits, dots, dashes \
                 and underscores, not starting with a dot",
                key.exec
            )));
        }
        let container = self.container(&key.container)?;
        spec.set_terminal(Some(stdio.terminal));
        let init = &container.init;
        if init.state() == State::Paused {
            return Err(init.refused("add an exec to", State::Paused));
        }
        let pid = init.pid;
        container.add(Process::exec(key.clone(), stdio, pid, spec))?;
        self.publisher.publish(&TaskEvent::ExecAdded(key));
        Ok(())
    }

    /// Starts an init process or an exec and returns the process id for containerd.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], [`TaskError::State`] when it was started or has ended, or what the
    /// guest says, in runc's words.
    pub(crate) async fn start(self: Arc<Self>, key: ProcessKey) -> Result<u32, TaskError> {
        let container = self.container(&key.container)?;
        let process = container.process(&key.exec)?;
        // The end of the process is recorded after this turn: its events come in order even when
        // it ends before the guest has answered.
        let turn = process.turn.lock().await;
        let vm = self.running_vm(&key)?;
        if key.is_init() {
            self.start_init(&*vm, &process).await?;
            // The process may end while its hooks run.
            drop(turn);
            container.hooks.started(process.pid).await;
        } else {
            self.start_exec(&vm, &container, &process).await?;
            tokio::spawn(Arc::clone(&self).watch(vm, container, Arc::clone(&process)));
        }
        Ok(process.pid)
    }

    async fn start_init(&self, vm: &dyn Vm, process: &Process) -> Result<(), TaskError> {
        let state = process.state();
        if state != State::Created {
            return Err(process.refused("start", state));
        }
        self.fail_points.pass(Point::Start).await?;
        let id = process.key.id();
        if let Err(error) = vm::alive(vm, vm.start_process(&id)).await {
            tracing::error!(id = id.container, "start failed: {error}");
            // Whoever waits for the process must not wait for ever.
            let _ = vm::alive(vm, vm.signal(&id, SIGKILL, true)).await;
            return Err(TaskError::oci("start", &error));
        }
        process.set_running()?;
        process.open_stdin();
        self.phases.reached(&id.container, "container-started");
        self.publisher.publish(&TaskEvent::Started {
            id: id.container,
            pid: process.pid,
        });
        Ok(())
    }

    async fn start_exec(
        &self,
        vm: &Arc<dyn Vm>,
        container: &Container,
        process: &Process,
    ) -> Result<(), TaskError> {
        let state = process.state();
        if state != State::Added {
            return Err(process.refused("start", state));
        }
        let of_init = container.init.state();
        if !container.is_open() || of_init == State::Paused {
            return Err(container.init.refused("start an exec in", of_init));
        }
        if let Err(error) = self.run_exec(&**vm, process).await {
            tracing::info!("start of {} failed: {error}", process.key);
            process.cut();
            process.set_exited(Exit::now(NOT_STARTED));
            process.set_drained();
            return Err(error);
        }
        process.set_running()?;
        process.open_stdin();
        let started = TaskEvent::ExecStarted(process.key.clone(), process.pid);
        self.publisher.publish(&started);
        Ok(())
    }

    async fn run_exec(&self, vm: &dyn Vm, process: &Process) -> Result<(), TaskError> {
        self.fail_points.pass(Point::Exec).await?;
        let stdio = Stdio::open(
            &process.stdio,
            &self.options.namespace,
            &process.key.container,
        )
        .await
        .map_err(|error| TaskError::Precondition(error.to_string()))?;
        let Some(spec) = process.take_spec() else {
            return Err(process.refused("start", process.state()));
        };
        let id = process.key.id();
        let create = CreateExec {
            process: id.clone(),
            spec,
            stdin: stdio.has_stdin(),
            stdout: stdio.has_stdout(),
            stderr: stdio.has_stderr(),
        };
        let streams = vm::alive(vm, vm.create_exec(create))
            .await
            .map_err(|error| TaskError::oci("exec", &error))?;
        process.set_io(stdio.connect(streams, None));
        if let Some((width, height)) = process.take_size()
            && let Err(error) = vm::alive(vm, vm.resize(&id, width, height)).await
        {
            tracing::warn!("terminal of {} not resized: {error}", process.key);
        }
        if let Err(error) = vm::alive(vm, vm.start_process(&id)).await {
            if let Err(left) = vm::alive(vm, vm.delete_process(&id)).await {
                tracing::debug!("{} not removed from the guest: {left}", process.key);
            }
            return Err(TaskError::oci("exec", &error));
        }
        Ok(())
    }

    /// Waits for the end of a process and records it: exactly one exit for each process that was
    /// created or started, whatever becomes of the guest.
    pub(super) async fn watch(
        self: Arc<Self>,
        vm: Arc<dyn Vm>,
        container: Arc<Container>,
        process: Arc<Process>,
    ) {
        let id = process.key.id();
        let (exit, out_of_memory) = match vm::alive(&*vm, vm.wait_process(&id)).await {
            // By our clock: the guest's may be anything.
            Ok(end) => (Exit::now(end.status), end.oom_killed),
            Err(error) => {
                tracing::error!("{} counts as killed: {error}", process.key);
                (Exit::now(KILLED), false)
            }
        };
        {
            let _turn = process.turn.lock().await;
            if process.key.is_init() {
                self.end_execs(&*vm, &container).await;
            }
            if out_of_memory && container.first_oom() {
                self.report_oom(&container);
            }
            self.record_exit(&process, exit);
        }
        if timeout(DRAIN_TIMEOUT, process.drained()).await.is_err() {
            tracing::info!(
                "{} ended, but its output is still open: a process it left behind holds it",
                process.key
            );
        }
        process.set_drained();
    }

    /// Sees every exec of a container to its end: their exits come before the container's.
    async fn end_execs(&self, vm: &dyn Vm, container: &Container) {
        let deadline = Instant::now() + EXEC_TIMEOUT;
        let execs = container.close();
        if !container.running_execs().is_empty() {
            // Needed where the container shares its pid namespace; elsewhere they are dead.
            let init = container.init.key.id();
            let _ = timeout_at(deadline, vm::alive(vm, vm.signal(&init, SIGKILL, true))).await;
        }
        for exec in execs {
            // A start that is under way gets its turn first.
            let ended = timeout_at(deadline, async {
                drop(exec.turn.lock().await);
                if exec.state() == State::Running {
                    exec.ended().await;
                }
            });
            if ended.await.is_err() && exec.state() == State::Running {
                tracing::error!("{} outlived its container and counts as killed", exec.key);
                self.record_exit(&exec, Exit::now(KILLED));
            }
        }
    }

    fn record_exit(&self, process: &Process, exit: Exit) {
        if process.set_exited(exit) {
            process.stop_stdin();
            tracing::info!("{} ended with status {}", process.key, exit.status);
            let exited = TaskEvent::Exited(process.key.clone(), process.pid, exit);
            self.publisher.publish(&exited);
        }
    }

    fn report_oom(&self, container: &Container) {
        let id = &container.init.key.container;
        if let Err(error) = container.bundle.mark_oom() {
            tracing::warn!(id, "cannot mark the bundle as out of memory: {error}");
        }
        self.publisher.publish(&TaskEvent::OutOfMemory(id.clone()));
    }
}
