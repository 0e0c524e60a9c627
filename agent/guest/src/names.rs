//! Questions to the name server of the pod's namespace on the host.
//!
//! docker answers the containers of a network that its user made at 127.0.0.11, from a socket in the
//! pod's namespace. In the guest that address is the guest's own, so the agent listens there, and what it is
//! asked goes to the host over one connection.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caisson_protocol::{NAME_HEADER, NAME_SERVICE, NameHeader, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::socket::Listener;

/// How long the host may take to say where the name server is.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// What is said when the agent listens there.
const LISTENING: &[u8] = b"+";
/// Questions without an answer; the oldest are forgotten.
const MAX_WAITING: usize = 256;
/// Connections of containers at a time. More wait.
const MAX_CONNECTIONS: usize = 16;
/// How long such a connection may stand still.
const IDLE: Duration = Duration::from_secs(30);

/// Asks for as long as the runtime lives.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: Listener) -> io::Result<()> {
    listener.for_each(relay).await
}

async fn relay(mut host: Descriptor) -> io::Result<()> {
    let mut address = [0; 4];
    let _ = timeout(HEADER_TIME, host.read_exact(&mut address)).await??;
    let server = SocketAddr::from((Ipv4Addr::from(address), NAME_SERVICE));
    let datagrams = UdpSocket::bind(server).await?;
    let connections = TcpListener::bind(server).await?;
    host.write_all(LISTENING).await?;
    let (from_host, to_host) = tokio::io::split(host);
    let (sender, questions) = mpsc::channel(1);
    let relay = Arc::new(Relay {
        datagrams,
        questions: sender,
        waiting: Mutex::default(),
    });
    // The host hangs up at the end.
    tokio::select! {
        result = write(to_host, questions) => result,
        result = relay.take_answers(from_host) => result,
        result = relay.take_datagrams() => result,
        result = Arc::clone(&relay).take_connections(connections) => result,
    }
}

/// Who asked.
#[derive(Debug)]
enum Asker {
    Datagram(SocketAddr),
    Connection(oneshot::Sender<Vec<u8>>),
}

/// Those who wait for an answer, by the numbers of their questions.
#[derive(Debug, Default)]
struct Waiting {
    last: u32,
    askers: BTreeMap<u32, Asker>,
}

impl Waiting {
    fn add(&mut self, asker: Asker) -> u32 {
        if self.askers.len() >= MAX_WAITING {
            let _ = self.askers.pop_first();
        }
        self.last = self.last.wrapping_add(1);
        let _ = self.askers.insert(self.last, asker);
        self.last
    }
}

#[derive(Debug)]
struct Relay {
    datagrams: UdpSocket,
    questions: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<Waiting>,
}

impl Relay {
    async fn ask(&self, asker: Asker, question: &[u8]) -> io::Result<()> {
        let transport = match asker {
            Asker::Datagram(_) => Transport::Udp,
            Asker::Connection(_) => Transport::Tcp,
        };
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        let number = self.waiting(|waiting| waiting.add(asker));
        let header = NameHeader {
            number,
            transport,
            length,
        };
        let message = [&header.to_bytes(), question].concat();
        self.questions
            .send(message)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn take_datagrams(&self) -> io::Result<()> {
        let mut question = vec![0; usize::from(u16::MAX)];
        loop {
            let (length, from) = self.datagrams.recv_from(&mut question).await?;
            let asker = Asker::Datagram(from);
            self.ask(asker, question.get(..length).unwrap_or_default())
                .await?;
        }
    }

    async fn take_connections(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.map_err(io::Error::other)?;
            let (connection, _) = listener.accept().await?;
            let relay = Arc::clone(&self);
            tokio::spawn(async move {
                let _ = relay.take_connection(connection).await;
                drop(place);
            });
        }
    }

    /// One question after the other (RFC 1035 §4.2.2), until there is no more, or no answer.
    async fn take_connection(&self, mut connection: TcpStream) -> io::Result<()> {
        loop {
            let question = timeout(IDLE, read(&mut connection)).await??;
            let (sender, answer) = oneshot::channel();
            self.ask(Asker::Connection(sender), &question).await?;
            let answer = timeout(IDLE, answer).await?.map_err(io::Error::other)?;
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let message = [&length.to_be_bytes(), answer.as_slice()].concat();
            timeout(IDLE, connection.write_all(&message)).await??;
        }
    }

    async fn take_answers(&self, mut host: ReadHalf<Descriptor>) -> io::Result<()> {
        loop {
            let mut header = [0; NAME_HEADER];
            let _ = host.read_exact(&mut header).await?;
            let header = NameHeader::from_bytes(header).map_err(io::Error::other)?;
            let mut answer = vec![0; header.length.into()];
            let _ = host.read_exact(&mut answer).await?;
            let asker = self.waiting(|waiting| waiting.askers.remove(&header.number));
            // Without an answer a datagram is asked again by its program, and a connection is closed.
            match asker {
                Some(_) if answer.is_empty() => {}
                Some(Asker::Datagram(to)) => {
                    let _ = self.datagrams.send_to(&answer, to).await;
                }
                Some(Asker::Connection(sender)) => {
                    let _ = sender.send(answer);
                }
                None => {}
            }
        }
    }

    fn waiting<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn read(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = connection.read_u16().await?;
    let mut question = vec![0; length.into()];
    let _ = connection.read_exact(&mut question).await?;
    Ok(question)
}

async fn write(
    mut host: WriteHalf<Descriptor>,
    mut questions: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(message) = questions.recv().await {
        host.write_all(&message).await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "names_test.rs"]
mod tests;
