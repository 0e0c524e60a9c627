//! Sockets of vsock, as files that can be read and written.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// More connections than a test opens at once.
const BACKLOG: i32 = 1024;

/// Context id of the host, as its guests know it.
pub const HOST: u32 = libc::VMADDR_CID_HOST;

/// A context id and a port.
struct Address {
    cid: u32,
    port: u32,
}

// SAFETY: the function is given a complete `sockaddr_vm` and the size of one.
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        // SAFETY: it is made of integers.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = self.cid;
        address.svm_port = self.port;
        let size = size_of_val(&address) as SocketAddrLen;
        f((&raw const address).cast(), size)
    }
}

fn socket() -> rustix::io::Result<rustix::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)
}

/// Listens on a port.
///
/// # Errors
/// What the system calls answer.
pub fn listen(port: u32) -> io::Result<File> {
    let socket = socket()?;
    let cid = libc::VMADDR_CID_ANY;
    rustix::net::bind(&socket, &Address { cid, port })?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Waits for the next connection.
///
/// # Errors
/// What the system call answers.
pub fn accept(listener: &File) -> io::Result<File> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?.into())
}

/// Connects to a port of a guest or of [`HOST`].
///
/// # Errors
/// What the system calls answer; a port that the host does not want is `ECONNRESET`.
pub fn connect(cid: u32, port: u32) -> io::Result<File> {
    let socket = socket()?;
    rustix::net::connect(&socket, &Address { cid, port })?;
    Ok(socket.into())
}
