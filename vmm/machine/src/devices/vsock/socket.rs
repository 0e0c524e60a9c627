//! Between a host socket and guest memory without a copy in between.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;

use crate::virtio::iovec::{iovecs, repeat};

/// Most stretches of memory handed to the kernel in one call.
const MAX_VECTORS: usize = 64;

/// Reads into `slices`, front to back. Zero means end of file, unless there was no room at all.
///
/// # Errors
/// As recvmsg(2): [`io::ErrorKind::WouldBlock`] when nothing is there.
pub(super) fn receive(stream: &UnixStream, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    with_message(slices, |message| {
        // SAFETY: `message` describes guest memory that stays mapped as long as `slices` live;
        // the kernel writes plain bytes to it, which guest memory may be changed to at any time.
        unsafe { libc::recvmsg(stream.as_raw_fd(), message, libc::MSG_DONTWAIT) }
    })
}

/// Writes `slices`, front to back; returns how many bytes the socket took.
///
/// # Errors
/// As sendmsg(2): [`io::ErrorKind::WouldBlock`] when it took nothing.
pub(super) fn send(stream: &UnixStream, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    with_message(slices, |message| {
        // SAFETY: `message` describes memory that stays mapped as long as `slices` live; the
        // kernel only reads it.
        unsafe { libc::sendmsg(stream.as_raw_fd(), message, flags) }
    })
}

fn with_message(
    slices: &[VolatileSlice<'_>],
    mut call: impl FnMut(*mut libc::msghdr) -> isize,
) -> io::Result<usize> {
    let mut vectors = iovecs(slices.get(..MAX_VECTORS).unwrap_or(slices));
    // SAFETY: all zeroes is a valid msghdr: no address, no vectors, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    repeat(|| call(&mut message))
}
