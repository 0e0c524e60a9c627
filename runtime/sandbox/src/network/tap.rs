//! The host's end of the cable into the virtual machine (Documentation/networking/tuntap.rst).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_short};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// How taps are called; the kernel puts a number there.
const NAME: &[u8] = b"caisson%d";
const DEVICE: &str = "/dev/net/tun";

/// A tap. It is gone when its descriptor is closed everywhere.
#[derive(Debug)]
pub(super) struct Tap {
    /// What goes to the VMM.
    pub(super) queue: OwnedFd,
    /// The number of the interface.
    pub(super) index: u32,
}

impl Tap {
    /// Makes one in the network namespace of the calling thread. It is down.
    ///
    /// # Errors
    /// Fails without the kernel's module tun and without the privilege.
    pub(super) fn new() -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|error| io::Error::new(error.kind(), format!("{DEVICE}: {error}")))?;
        // SAFETY: an ifreq is made of integers; zeros are the empty name and no flags.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as c_short;
        for (place, byte) in request.ifr_name.iter_mut().zip(NAME) {
            *place = *byte as c_char;
        }
        // SAFETY: TUNSETIFF reads and writes one ifreq, which is ours.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel ends the name with a zero inside the array.
        let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
        let any = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::DGRAM,
            None,
        )?;
        let index = rustix::net::netdevice::name_to_index(any.as_fd(), &name.to_string_lossy())?;
        Ok(Self {
            queue: file.into(),
            index,
        })
    }
}
