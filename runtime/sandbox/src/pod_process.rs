//! The process that stands for the pod on the host.
//!
//! What looks at a container from outside wants a process of it: docker moves a network interface
//! into `/proc/<pid>/ns/net`, hooks run CNI plug-ins on it, containerd shows it and an
//! administrator kills it. `caisson-pod` is that process. It lies in the pod's network namespace
//! and does nothing. It is not the VMM, which has no business in any network.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitStatus;

use tokio::process::Child;
use tokio::sync::watch;

use crate::machine::{self, Companion, HelperOutput, Machine, Namespaces};
use crate::netns::NetworkNamespace;
use crate::{Config, ErrorKind, SandboxError};

/// A running `caisson-pod`. It ends with the machine, and the machine with it.
#[derive(Debug)]
pub(crate) struct PodProcess {
    pid: u32,
    gone: watch::Receiver<bool>,
}

impl PodProcess {
    /// Starts it in `netns`. Call it on a thread that lives as long as the pod.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be started.
    pub(crate) fn start(
        config: &Config,
        netns: &NetworkNamespace,
        machine: &Machine,
        state_dir: &Path,
    ) -> Result<Self, SandboxError> {
        let start = || {
            let (writer, output) = HelperOutput::pipe("caisson-pod")?;
            let namespaces = Namespaces {
                network: Some(netns.as_fd()),
                own_pids: false,
            };
            let child = machine::spawn(&config.pod_process, &[], &writer, namespaces)?;
            let pid = child
                .id()
                .ok_or_else(|| io::Error::other("it is gone already"))?;
            machine::record(state_dir, &[(machine::POD, pid)])?;
            Ok::<_, io::Error>((pid, child, output))
        };
        let (pid, child, output) = start().map_err(|error| {
            SandboxError::new(
                ErrorKind::Internal,
                format!("the pod's process on the host could not be started: {error}"),
            )
        })?;
        let (gone_sender, gone) = watch::channel(false);
        let machine = machine.companion();
        tokio::spawn(async move {
            supervise(child, &machine).await;
            drop(output);
            gone_sender.send_replace(true);
        });
        Ok(Self { pid, gone })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when it is gone.
    pub(crate) async fn gone(&self) {
        // The sender goes only after it has sent.
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }
}

async fn supervise(mut child: Child, machine: &Companion) {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = machine.ended() => {
            if let Err(error) = child.kill().await {
                tracing::warn!("the pod's process on the host was not killed: {error}");
            }
            return;
        }
    };
    machine.fail(how(status)).await;
}

fn how(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("the pod's process on the host was ended from outside: {status}"),
        Err(error) => format!("the pod's process on the host cannot be waited for: {error}"),
    }
}
