//! Connections into the guest, and the dialogue with the VMM behind them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use caisson_control::{DeviceConfig, Reply, Request};
use caisson_protocol::{STREAM_PORT, StreamId};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::agent::SHORT;
use crate::machine::Machine;
use crate::{ErrorKind, SandboxError, guest_text};

/// The guest's kernel accepts while the agent listens, whatever the agent is doing: microseconds
/// of work, behind whatever else the guest's CPUs have to do.
const ACCEPT: Duration = Duration::from_secs(30);

/// Connects to `port` in the guest.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when the guest refuses, does not answer, or ends.
pub(crate) async fn open(machine: &Machine, port: u32) -> Result<UnixStream, SandboxError> {
    let (ours, theirs) = pair()?;
    ask(machine, port, theirs).await?;
    Ok(ours)
}

/// Opens a standard stream numbered `id`.
///
/// # Errors
/// As [`open`].
pub(crate) async fn open_stream(
    machine: &Machine,
    id: StreamId,
) -> Result<UnixStream, SandboxError> {
    let (mut ours, theirs) = pair()?;
    // The header waits in the socket until the guest has accepted.
    ours.write_all(&id.to_header()).await.map_err(internal)?;
    ask(machine, STREAM_PORT, theirs).await?;
    Ok(ours)
}

fn pair() -> Result<(UnixStream, std::os::unix::net::UnixStream), SandboxError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(internal)?;
    ours.set_nonblocking(true).map_err(internal)?;
    theirs.set_nonblocking(true).map_err(internal)?;
    Ok((UnixStream::from_std(ours).map_err(internal)?, theirs))
}

async fn ask(
    machine: &Machine,
    port: u32,
    theirs: std::os::unix::net::UnixStream,
) -> Result<(), SandboxError> {
    let request = machine.ask(Request::ConnectGuest { port }, vec![theirs.into()]);
    let reply = machine.within(ACCEPT, request).await.ok_or_else(|| {
        SandboxError::new(
            ErrorKind::Unavailable,
            format!(
                "the guest did not accept a connection within {} s",
                ACCEPT.as_secs()
            ),
        )
    })??;
    match reply {
        Reply::Connected => Ok(()),
        Reply::Refused { message, .. } => Err(refusal(
            &format!("the guest refused a connection to port {port}"),
            &message,
        )),
        reply => Err(unexpected(machine, &reply).await),
    }
}

/// Asks the VMM for what it does without waiting for the guest.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when it does not answer within [`SHORT`], or the machine ends first.
pub(crate) async fn ask_vmm(
    machine: &Machine,
    request: Request,
    files: Vec<OwnedFd>,
) -> Result<Reply, SandboxError> {
    let reply = machine.ask(request, files);
    machine.within(SHORT, reply).await.unwrap_or_else(|| {
        Err(SandboxError::new(
            ErrorKind::Unavailable,
            format!("the VMM did not answer within {} s", SHORT.as_secs()),
        ))
    })
}

/// Puts a device on the machine's bus; returns its slot. `refused` begins the error that says why it is
/// not there.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when the machine does not take it; those of [`ask_vmm`].
pub(crate) async fn plug(
    machine: &Machine,
    device: DeviceConfig,
    files: Vec<OwnedFd>,
    refused: &str,
) -> Result<u8, SandboxError> {
    match ask_vmm(machine, Request::Plug(device), files).await? {
        Reply::Plugged { slot } => Ok(slot),
        Reply::Refused { message, .. } => Err(refusal(refused, &message)),
        reply => Err(unexpected(machine, &reply).await),
    }
}

/// What was refused, and why in the VMM's words.
pub(crate) fn refusal(what: &str, message: &str) -> SandboxError {
    SandboxError::new(
        ErrorKind::Unavailable,
        format!("{what}: {}", guest_text::line(message)),
    )
}

/// The VMM answered something else than was asked; it is not to be trusted any more.
pub(crate) async fn unexpected(machine: &Machine, reply: &Reply) -> SandboxError {
    let kind = match reply {
        Reply::Booted { .. } => "booted",
        Reply::Plugged { .. } => "plugged",
        Reply::Done => "done",
        Reply::Connected => "connected",
        Reply::Metrics(_) => "metrics",
        Reply::Stopped => "stopped",
        Reply::Refused { .. } => "refused",
    };
    machine
        .broken(format!(
            "the VMM broke the control protocol: unexpected reply \"{kind}\""
        ))
        .await;
    SandboxError::new(ErrorKind::Unavailable, machine.ended().await.description)
}

fn internal(error: impl std::fmt::Display) -> SandboxError {
    SandboxError::new(
        ErrorKind::Internal,
        format!("a socket for the guest could not be made: {error}"),
    )
}
