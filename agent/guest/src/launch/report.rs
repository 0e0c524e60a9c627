//! What the child tells the agent: one message over a socket, with the terminal if there is one.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::descriptor::Descriptor;
use crate::error::{AgentError, Doing};

/// Largest report in bytes.
const MAX_REPORT: usize = 16 << 10;

/// Longest reason in bytes, so that the report fits whatever JSON makes of it.
const MAX_REASON: usize = 2 << 10;

/// The outcome of a job.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The process exists. Its terminal comes with the message.
    Launched {
        /// Its number in the agent's pid namespace.
        pid: i32,
    },
    /// It does not.
    Failed(AgentError),
}

/// The two ends, the first for the agent. Messages keep their boundaries.
///
/// # Errors
/// When the kernel has no descriptors left.
pub fn socket_pair() -> Result<(Descriptor, OwnedFd), AgentError> {
    let what = "make a socket for a container process";
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .doing(what)?;
    Ok((Descriptor::new(ours).doing(what)?, theirs))
}

/// Shortens the words of an error to what fits into a report or a pipe.
#[must_use]
pub fn shorten(error: AgentError) -> AgentError {
    let cut = |mut text: String| {
        if text.len() > MAX_REASON {
            let end = (0..=MAX_REASON)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        text
    };
    match error {
        AgentError::NotFound(text) => AgentError::NotFound(cut(text)),
        AgentError::AlreadyExists(text) => AgentError::AlreadyExists(cut(text)),
        AgentError::FailedPrecondition(text) => AgentError::FailedPrecondition(cut(text)),
        AgentError::InvalidArgument(text) => AgentError::InvalidArgument(cut(text)),
        AgentError::ResourceExhausted(text) => AgentError::ResourceExhausted(cut(text)),
        AgentError::Internal(text) => AgentError::Internal(cut(text)),
    }
}

/// Sends a report. Only the first one counts, so it does not matter who speaks after it.
pub fn send(socket: BorrowedFd<'_>, report: &Report, terminal: Option<BorrowedFd<'_>>) {
    let Ok(json) = serde_json::to_vec(report) else {
        return;
    };
    let fds = terminal.map(|fd| [fd]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    // If the agent is gone, so is the machine.
    let _ = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&json)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
}

/// The error for a child that ended without a report.
#[must_use]
pub fn silence() -> AgentError {
    AgentError::Internal("the child that makes container processes ended without a word".to_owned())
}

/// Waits for the report of a child.
///
/// # Errors
/// When the child ended without one.
pub async fn receive(socket: &Descriptor) -> Result<(Report, Option<OwnedFd>), AgentError> {
    let mut data = vec![0_u8; MAX_REPORT];
    let (count, terminal) = socket
        .when_readable(|socket| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = rustix::net::recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut data)],
                &mut control,
                flags,
            )?;
            let terminal = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            Ok((received.bytes, terminal))
        })
        .await
        .doing("wait for a child")?;
    if count == 0 {
        return Err(silence());
    }
    let report = serde_json::from_slice(data.get(..count).unwrap_or_default())
        .map_err(|error| AgentError::Internal(format!("a child's report is invalid: {error}")))?;
    Ok((report, terminal))
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
