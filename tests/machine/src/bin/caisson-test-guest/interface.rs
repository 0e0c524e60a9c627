//! A network interface's address, where there is no program to set it.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_short};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Gives an interface an IPv4 address and takes it up (netdevice(7)).
///
/// # Errors
/// What the system calls answer.
pub(crate) fn set_address(name: &str, address: [u8; 4], prefix: u8) -> io::Result<()> {
    // Any socket of this family will do.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    let mut request = request(name);
    for (command, address) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, mask.to_be_bytes()),
    ] {
        request.ifr_ifru.ifru_addr = socket_address(address);
        set(&socket, command, &mut request)?;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as c_short;
    set(&socket, libc::SIOCSIFFLAGS, &mut request)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is made of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let place = request.ifr_name.iter_mut();
    for (place, byte) in place.zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte as c_char;
    }
    request
}

/// A `sockaddr_in`, of which the address is bytes 4 to 8.
fn socket_address(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (place, byte) in data.iter_mut().skip(2).zip(address) {
        *place = byte as c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn set(socket: &UdpSocket, command: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: these commands read one ifreq, which is ours.
    if unsafe { libc::ioctl(socket.as_raw_fd(), command, request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
