//! The life of a sandbox, with a VMM and a guest that are played by `tests/fake_vmm`: what goes
//! over the control channel, the agent's connection and the streams is real, and so are the
//! processes, the mounts and what must be gone afterwards.

// All of this is test code: what must not happen may panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod changes;
mod containers;
mod disks;
mod end;
mod lies;
mod loop_device;
mod network;
mod pod;
mod pod_process;
mod roots;
mod start;
mod volumes;

use std::future::Future;
use std::time::Duration;

use caisson_sandbox::ProcessId;

/// Nothing here waits for anything but this machine's own processes.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("it takes too long")
}

fn init(container: &str) -> ProcessId {
    ProcessId {
        container: container.into(),
        exec: String::new(),
    }
}
