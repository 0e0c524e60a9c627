//! Connections of the host to what listens on the guest's loopback addresses: port-forward.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use caisson_protocol::{DIAL_HEADER, DialHeader};
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::socket::Listener;

/// How long a connection may take to say where it goes. The host writes it right after connecting.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// What is said when somebody listens.
const CONNECTED: &[u8] = b"+";

/// Passes connections on for as long as the runtime lives.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: Listener) -> io::Result<()> {
    listener.for_each(pass_on).await
}

async fn pass_on(mut outside: Descriptor) -> io::Result<()> {
    let mut header = [0; DIAL_HEADER];
    let _ = timeout(HEADER_TIME, outside.read_exact(&mut header)).await??;
    let header = DialHeader::from_bytes(&header).map_err(io::Error::other)?;
    let mut inside = connect(header).await?;
    outside.write_all(CONNECTED).await?;
    let _ = copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}

async fn connect(header: DialHeader) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, header.port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, header.port));
    let (first, second) = if header.ipv6 { (v6, v4) } else { (v4, v6) };
    match TcpStream::connect(first).await {
        Ok(stream) => Ok(stream),
        Err(_) => TcpStream::connect(second).await,
    }
}

#[cfg(test)]
#[path = "localhost_test.rs"]
mod tests;
