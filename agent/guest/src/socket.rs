//! Vsock listeners and connections. Only the host is spoken to: a process of a container that
//! reaches the agent's ports through vsock loopback is turned away.
#![allow(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use caisson_protocol::HOST_CID;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType};

use crate::descriptor::Descriptor;

/// Connections that may wait to be accepted; the host opens three per process.
const BACKLOG: i32 = 128;

/// An address of vsock: context id and port.
struct VsockAddress {
    cid: u32,
    port: u32,
}

// SAFETY: `with_sockaddr` passes a complete `sockaddr_vm` and its size.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let address = libc::sockaddr_vm {
            svm_family: libc::AF_VSOCK as libc::sa_family_t,
            svm_reserved1: 0,
            svm_port: self.port,
            svm_cid: self.cid,
            svm_zero: [0; 4],
        };
        f(
            (&raw const address).cast(),
            size_of::<libc::sockaddr_vm>() as SocketAddrLen,
        )
    }
}

/// The context id of a peer; `None` if the address is not one of vsock.
fn peer_cid(address: &SocketAddrAny) -> Option<u32> {
    if address.address_family() != AddressFamily::VSOCK
        || (address.addr_len() as usize) < size_of::<libc::sockaddr_vm>()
    {
        return None;
    }
    // SAFETY: the address is initialised for `addr_len` bytes, which was compared with the size of
    // `sockaddr_vm`, a plain structure of integers.
    let address = unsafe {
        address
            .as_ptr()
            .cast::<libc::sockaddr_vm>()
            .read_unaligned()
    };
    Some(address.svm_cid)
}

fn vsock_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Connects to a port of the host and waits until it answers.
///
/// # Errors
/// What `socket(2)` or `connect(2)` answers; a host that does not listen is `ECONNRESET`.
pub fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock_socket()?;
    rustix::net::connect(
        &socket,
        &VsockAddress {
            cid: HOST_CID,
            port,
        },
    )?;
    Ok(socket)
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peers {
    Host,
    Anyone,
}

/// A listening socket on the event loop.
#[derive(Debug)]
pub struct Listener {
    socket: Descriptor,
    peers: Peers,
}

impl Listener {
    /// Listens on a vsock port for connections of the host.
    ///
    /// # Errors
    /// What `bind(2)` or `listen(2)` answers.
    pub fn vsock(port: u32) -> io::Result<Self> {
        let socket = vsock_socket()?;
        rustix::net::bind(
            &socket,
            &VsockAddress {
                cid: libc::VMADDR_CID_ANY,
                port,
            },
        )?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            socket: Descriptor::new(socket)?,
            peers: Peers::Host,
        })
    }

    /// Takes connections from an AF_UNIX socket instead; for tests on a machine without vsock.
    ///
    /// # Errors
    /// What `fcntl(2)` or `epoll_ctl(2)` answers.
    pub fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Ok(Self {
            socket: Descriptor::new(listener.into())?,
            peers: Peers::Anyone,
        })
    }

    /// The next connection of an allowed peer.
    ///
    /// # Errors
    /// What `accept(2)` answers for the listener itself.
    pub async fn accept(&self) -> io::Result<Descriptor> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// Does something with each connection, beside the others, for as long as the runtime lives. What
    /// becomes of one is its own business: the host sees that it is closed.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn for_each<F>(&self, what: impl Fn(Descriptor) -> F) -> io::Result<()>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        loop {
            tokio::spawn(what(self.accept().await?));
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Descriptor>> {
        loop {
            let accepted = ready!(self.socket.poll_when_readable(context, |socket| {
                Ok(rustix::net::acceptfrom_with(
                    socket,
                    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                )?)
            }));
            match accepted {
                Ok((connection, peer)) => {
                    let cid = peer.as_ref().and_then(peer_cid);
                    if self.peers == Peers::Anyone || cid == Some(HOST_CID) {
                        return Poll::Ready(Descriptor::new(connection));
                    }
                }
                // A connection that was gone before it was accepted is no fault of the listener.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// As ttrpc wants it: an endless stream of connections.
impl futures_core::Stream for Listener {
    type Item = io::Result<Descriptor>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        self.poll_accept(context).map(Some)
    }
}
