//! The guest asks the name server of the pod's namespace.
//!
//! docker answers the containers of a network that its user made at 127.0.0.11, from a socket in the pod's
//! namespace, as other programs may at other loopback addresses. What the guest sends to such an address
//! stays in the guest. Its agent listens there instead; each question comes here over one connection, is
//! asked once more in the namespace, and the answer goes back. The guest chooses what it asks, as any
//! container does, and nothing of where.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use caisson_protocol::{NAME_HEADER, NAME_PORT, NAME_SERVICE, NameHeader, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::Network;
use crate::connection;
use crate::machine::Machine;
use crate::netns::NetworkNamespace;

/// Datagram sockets of the namespace of the thread that reads it (proc(5)).
const DATAGRAM_SOCKETS: &str = "/proc/thread-self/net/udp";
/// Questions at a time; each holds a descriptor of the shim and at most two messages. More wait.
const MAX_QUESTIONS: usize = 32;
/// How long an answer may take. Programs ask again after five seconds.
const ANSWER: Duration = Duration::from_secs(10);
/// The guest's agent only has to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// The guest's way to the name server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Names(AbortHandle);

impl Drop for Names {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    /// Leads the guest to the name server that answers at a loopback address of the namespace, if one
    /// does. From when this returns it is there.
    ///
    /// # Errors
    /// When it cannot be had in the guest, for example because a program listens there.
    pub(super) async fn lead_to_names(&self, machine: &Arc<Machine>) -> io::Result<()> {
        let namespace = &self.0.namespace;
        let sockets = namespace.run(|| fs::read_to_string(DATAGRAM_SOCKETS));
        let Some(server) = name_server(&sockets.await??) else {
            return Ok(());
        };
        let listens = async {
            let mut guest = connection::open(machine, NAME_PORT)
                .await
                .map_err(io::Error::other)?;
            guest.write_all(&server.octets()).await?;
            // The guest says that it listens, or hangs up.
            let _ = guest.read_u8().await?;
            Ok::<_, io::Error>(guest)
        };
        let guest = timeout(LISTEN, listens).await??;
        let namespace = namespace.try_clone()?;
        let server = SocketAddr::from((server, NAME_SERVICE));
        let asking = tokio::spawn(async move {
            if let Err(error) = ask_all(guest, namespace, server).await {
                tracing::debug!("the pod asks its name server no more: {error}");
            }
        });
        let _ = self.0.names.set(Names(asking.abort_handle()));
        Ok(())
    }
}

/// The loopback address, but for the usual one, at which somebody takes datagrams.
fn name_server(sockets: &str) -> Option<Ipv4Addr> {
    let addresses = sockets.lines().skip(1).filter_map(|line| {
        let (address, _) = line.split_whitespace().nth(1)?.split_once(':')?;
        let as_in_memory = u32::from_str_radix(address, 16).ok()?;
        Some(Ipv4Addr::from(as_in_memory.to_ne_bytes()))
    });
    addresses
        .filter(|address| address.is_loopback() && *address != Ipv4Addr::LOCALHOST)
        .min()
}

/// Asks what the guest asks until it hangs up or talks nonsense.
async fn ask_all(
    guest: UnixStream,
    namespace: NetworkNamespace,
    server: SocketAddr,
) -> io::Result<()> {
    let (mut questions, answers) = guest.into_split();
    let (namespace, answers) = (Arc::new(namespace), Arc::new(Mutex::new(answers)));
    // Ends with this.
    let mut asking = JoinSet::new();
    loop {
        let mut header = [0; NAME_HEADER];
        let _ = questions.read_exact(&mut header).await?;
        let header = NameHeader::from_bytes(header).map_err(io::Error::other)?;
        let mut question = vec![0; header.length.into()];
        let _ = questions.read_exact(&mut question).await?;
        while asking.try_join_next().is_some() {}
        if asking.len() >= MAX_QUESTIONS {
            let _ = asking.join_next().await;
        }
        let (namespace, answers) = (Arc::clone(&namespace), Arc::clone(&answers));
        let _ = asking.spawn(async move {
            let asked = ask(&namespace, server, header.transport, &question);
            let answer = timeout(ANSWER, asked).await;
            let answer = answer.ok().and_then(Result::ok).unwrap_or_default();
            let _ = tell(&answers, header, &answer).await;
        });
    }
}

async fn ask(
    namespace: &NetworkNamespace,
    server: SocketAddr,
    transport: Transport,
    question: &[u8],
) -> io::Result<Vec<u8>> {
    match transport {
        Transport::Udp => {
            let socket = namespace.run(move || {
                let socket = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect(server)?;
                socket.set_nonblocking(true)?;
                Ok::<_, io::Error>(socket)
            });
            let socket = UdpSocket::from_std(socket.await??)?;
            let _ = socket.send(question).await?;
            let mut answer = vec![0; usize::from(u16::MAX)];
            let length = socket.recv(&mut answer).await?;
            answer.truncate(length);
            Ok(answer)
        }
        Transport::Tcp => {
            let socket = namespace.run(move || {
                let socket = StdTcpStream::connect_timeout(&server, ANSWER)?;
                socket.set_nonblocking(true)?;
                Ok::<_, io::Error>(socket)
            });
            let mut socket = TcpStream::from_std(socket.await??)?;
            let length = u16::try_from(question.len()).map_err(io::Error::other)?;
            let message = [&length.to_be_bytes(), question].concat();
            socket.write_all(&message).await?;
            let mut answer = vec![0; socket.read_u16().await?.into()];
            let _ = socket.read_exact(&mut answer).await?;
            Ok(answer)
        }
    }
}

async fn tell(
    answers: &Mutex<OwnedWriteHalf>,
    question: NameHeader,
    answer: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let header = NameHeader { length, ..question };
    let message = [&header.to_bytes(), answer].concat();
    answers.lock().await.write_all(&message).await
}

#[cfg(test)]
#[path = "names_test.rs"]
mod tests;
