//! The ttrpc server on the shim's socket.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, Service};

/// How long the last answers may take to leave once every call has ended: they are short and the
/// socket is local, so this only bounds a client that does not read.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Pause after a connection could not be taken, for want of descriptors or memory. Nothing
/// announces that there are some again, and the connection still waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server.
pub(crate) struct TaskServer {
    server: Server,
    /// Closed when the last connection is: the library tells when calls have ended, not when
    /// their answers are written.
    connections: mpsc::Receiver<()>,
}

impl TaskServer {
    /// Serves `services` to whoever connects to `listener`.
    ///
    /// # Errors
    /// Fails when the socket cannot be used.
    pub(crate) async fn start(
        listener: StdListener,
        services: HashMap<String, Service>,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let (alive, connections) = mpsc::channel(1);
        let connections_in = Connections {
            listener: UnixListener::from_std(listener)?,
            alive,
            pause: None,
        };
        let mut server = Server::new()
            .add_listener(Listener::new(connections_in))
            .register_service(services);
        server.start().await?;
        Ok(Self {
            server,
            connections,
        })
    }

    /// Takes no more calls, lets the running ones end and their answers leave.
    pub(crate) async fn stop(mut self) {
        if let Err(error) = self.server.shutdown().await {
            tracing::debug!("the server did not stop in order: {error}");
        }
        // The listener holds the last sender.
        drop(self.server);
        let _ = timeout(LAST_ANSWERS, self.connections.recv()).await;
    }
}

/// The connections that come in.
struct Connections {
    listener: UnixListener,
    alive: mpsc::Sender<()>,
    /// Runs after a failure.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    let _alive = self.alive.clone();
                    return Poll::Ready(Some(Ok(Connection { stream, _alive })));
                }
                // The library would try again at once, and use up the whole thread with it.
                Err(error) => {
                    tracing::warn!("a connection waits: {error}");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// A connection that is known to be open.
struct Connection {
    stream: UnixStream,
    _alive: mpsc::Sender<()>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
