//! Connections from the guest to a service that sends back everything.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::thread;

use caisson_machine_tests::{Address, Comparison, Pattern, vsock};
use rustix::net::Shutdown;

/// Opens a connection for each size, and only then sends and compares on all of them at once.
///
/// # Errors
/// Says which connection went wrong first.
pub(crate) fn dial(address: &Address, seed: u64, sizes: &[u64]) -> io::Result<Vec<u8>> {
    let connections = sizes
        .iter()
        .map(|_| connect(address))
        .collect::<io::Result<Vec<File>>>()?;
    thread::scope(|scope| {
        let works: Vec<_> = (seed..)
            .zip(&connections)
            .zip(sizes)
            .map(|((seed, connection), size)| scope.spawn(move || echo(connection, seed, *size)))
            .collect();
        for (index, work) in works.into_iter().enumerate() {
            let result = work
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("panic")));
            result.map_err(|error| io::Error::other(format!("connection {index}: {error}")))?;
        }
        Ok(Vec::new())
    })
}

/// Connects to a service of the host.
///
/// # Errors
/// What the system calls answer.
pub(crate) fn connect(address: &Address) -> io::Result<File> {
    match address {
        Address::Vsock(port) => vsock::connect(vsock::HOST, *port),
        Address::Tcp(address) => Ok(OwnedFd::from(TcpStream::connect(address)?).into()),
    }
}

fn echo(mut connection: &File, seed: u64, bytes: u64) -> io::Result<()> {
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let sent = io::copy(&mut Pattern::new(seed).take(bytes), &mut &*connection);
            rustix::net::shutdown(connection, Shutdown::Write)?;
            sent
        });
        let compared = Comparison::of(&mut connection, seed, bytes);
        if compared.is_err() {
            // Or the sender would be waited for as well.
            let _ = rustix::net::shutdown(connection, Shutdown::Both);
        }
        let sent = sending
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panic")));
        compared.and(sent.map(drop))
    })
}
