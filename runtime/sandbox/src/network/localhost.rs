//! What is dialled on the loopback addresses of the pod's namespace reaches the guest's.
//!
//! containerd's port-forward enters the namespace and dials 127.0.0.1, where a service of the pod
//! that listens on nothing else is not: it listens in the guest. A connection is taken here and made
//! once more by the agent, byte for byte. It is made here before the guest is asked, so a port on
//! which nobody listens shows as a connection that is reset at once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use caisson_protocol::{DIAL_PORT, DialHeader};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Network;
use super::steer::Steering;
use crate::connection;
use crate::machine::Machine;

/// Connections at a time; each holds two descriptors of the shim. More wait.
const MAX_CONNECTIONS: usize = 128;
/// The guest connects to itself.
const CONNECT: Duration = Duration::from_secs(30);

/// The relay; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Localhost {
    _steering: Steering,
    accepting: AbortHandle,
}

impl Network {
    /// Relays connections to the loopback addresses to the guest, from now on.
    ///
    /// # Errors
    /// When the host's kernel cannot do it.
    pub(crate) async fn relay_localhost(&self, machine: &Arc<Machine>) -> io::Result<Localhost> {
        let namespace = self.0.namespace.as_fd().try_clone_to_owned()?;
        let steered = self.0.namespace.run(move || {
            // One socket for both, or what there is.
            let listener = StdListener::bind((Ipv6Addr::UNSPECIFIED, 0))
                .or_else(|_| StdListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
            listener.set_nonblocking(true)?;
            let steering = Steering::new(namespace.as_fd(), listener.as_fd())?;
            Ok::<_, io::Error>((steering, listener))
        });
        let (steering, listener) = steered.await??;
        let listener = TcpListener::from_std(listener)?;
        let accepting = tokio::spawn(accept(listener, Arc::downgrade(machine)));
        Ok(Localhost {
            _steering: steering,
            accepting: accepting.abort_handle(),
        })
    }
}

impl Drop for Localhost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, machine: Weak<Machine>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let machine = machine.clone();
                tokio::spawn(async move {
                    if let Err(error) = relay(stream, machine).await {
                        tracing::debug!("a connection to the pod's localhost: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("connections to the pod's localhost are not taken: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn relay(mut outside: TcpStream, machine: Weak<Machine>) -> io::Result<()> {
    let connected = async {
        let dialled = outside.local_addr()?;
        let dialled = SocketAddr::new(dialled.ip().to_canonical(), dialled.port());
        let machine = machine.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let mut inside = connection::open(&machine, DIAL_PORT)
            .await
            .map_err(io::Error::other)?;
        inside
            .write_all(&DialHeader::to(dialled).to_bytes())
            .await?;
        // The guest says that it is connected, or hangs up.
        let _ = inside.read_u8().await?;
        Ok::<_, io::Error>(inside)
    };
    let connected = timeout(CONNECT, connected).await;
    match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(mut inside) => copy_bidirectional(&mut outside, &mut inside)
            .await
            .map(drop),
        Err(error) => {
            // The nearest to a refusal that is left.
            outside.set_zero_linger()?;
            Err(error)
        }
    }
}

#[cfg(test)]
#[path = "localhost_test.rs"]
mod tests;
