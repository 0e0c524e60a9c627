//! The host's end of the cable: one queue of a tap, which takes and gives one packet per call, a
//! `virtio_net_hdr` in front.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{
    IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE, IFF_MULTI_QUEUE, IFF_TAP, IFF_VNET_HDR, TUNGETIFF,
    TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ,
};
use rustix::fs::OFlags;

use super::HEADER_SIZE;
use super::features::LargeUdp;

/// What the device needs of a queue of a tap. Its descriptor is never waited for by a read or a
/// write.
pub(super) trait Link: Send {
    /// Where packets are read and written.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Says what the tap may leave undone in the packets it gives: bits of TUNSETOFFLOAD. Holds
    /// for all queues of the tap.
    ///
    /// # Errors
    /// Fails when the interface is gone.
    fn set_offloads(&self, offloads: u32) -> io::Result<()>;
    /// Lets packets come through this queue or not; only for one of several queues.
    ///
    /// # Errors
    /// Fails when it is so already, or the interface is gone.
    fn set_attached(&self, attached: bool) -> io::Result<()>;
}

/// Why a file cannot be used as a tap.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    /// The file is something else.
    #[error("the file is no tap: {0}")]
    NoTap(io::Error),
    /// The tap was made in the wrong way.
    #[error("{name:?} was made without {flag}: set it when TUNSETIFF makes the tap")]
    Flag {
        /// Name of the interface.
        name: String,
        /// What is missing.
        flag: &'static str,
    },
    /// The files belong to different taps.
    #[error("the files are queues of two taps, {first:?} and {other:?}")]
    OtherTap {
        /// Interface of the first file.
        first: String,
        /// Interface of this one.
        other: String,
    },
    /// The kernel refused something.
    #[error("{name:?}: {what}: {source}")]
    Refused {
        /// Name of the interface.
        name: String,
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// One queue of a tap.
#[derive(Debug)]
pub(super) struct Tap {
    file: OwnedFd,
    name: String,
}

impl Tap {
    /// Checks that `file` is a queue of a tap, one of several if `multi_queue`, and makes it ready:
    /// reads and writes do not block, and packets carry the header of virtio 1.
    ///
    /// # Errors
    /// See [`TapError`].
    pub(super) fn new(file: OwnedFd, multi_queue: bool) -> Result<Self, TapError> {
        let (name, flags) = interface(file.as_fd()).map_err(TapError::NoTap)?;
        // Whether IFF_NO_PI is set cannot be known: the kernel uses its bit for IFF_NOFILTER in the
        // answer. Without it four bytes are in front of every packet, which hurts nobody else.
        let needed = [
            (IFF_TAP, "IFF_TAP", true),
            (IFF_VNET_HDR, "IFF_VNET_HDR", true),
            (IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE", multi_queue),
        ];
        for (bit, flag, needed) in needed {
            if needed && flags & bit == 0 {
                return Err(TapError::Flag { name, flag });
            }
        }
        let tap = Self { file, name };
        let size = HEADER_SIZE as libc::c_int;
        // SAFETY: the kernel reads an integer from behind the pointer.
        let result = unsafe { ioctl(tap.fd(), TUNSETVNETHDRSZ, &size) };
        result.map_err(|source| tap.refused("setting the size of the packet header", source))?;
        rustix::fs::fcntl_getfl(&tap.file)
            .and_then(|flags| rustix::fs::fcntl_setfl(&tap.file, flags | OFlags::NONBLOCK))
            .map_err(|error| tap.refused("making it nonblocking", error.into()))?;
        Ok(tap)
    }

    /// Name of the interface.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Finds out what this kernel does for UDP.
    ///
    /// # Errors
    /// Fails when it does not even do TCP, which every kernel since 2.6.27 does.
    pub(super) fn probe(&self) -> Result<LargeUdp, TapError> {
        let kinds = [LargeUdp::Segments, LargeUdp::Fragments];
        let mut result = Ok(LargeUdp::Segments);
        for kind in kinds {
            result = self.set_offloads(kind.offloads()).map(|()| kind);
            if result.is_ok() {
                break;
            }
        }
        result
            .and_then(|kind| self.set_offloads(0).map(|()| kind))
            .map_err(|source| self.refused("setting offloads", source))
    }

    fn refused(&self, what: &'static str, source: io::Error) -> TapError {
        TapError::Refused {
            name: self.name.clone(),
            what,
            source,
        }
    }
}

impl Link for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn set_offloads(&self, offloads: u32) -> io::Result<()> {
        // SAFETY: the argument is a number and no pointer.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, offloads) };
        checked(result)
    }

    fn set_attached(&self, attached: bool) -> io::Result<()> {
        let flag = if attached {
            IFF_ATTACH_QUEUE
        } else {
            IFF_DETACH_QUEUE
        };
        let mut request = empty_request();
        request.ifr_ifru.ifru_flags = flag as libc::c_short;
        // SAFETY: the kernel reads an interface request from behind the pointer.
        unsafe { ioctl(self.fd(), TUNSETQUEUE, &request) }
    }
}

/// Name and flags of the interface behind a file.
fn interface(file: BorrowedFd<'_>) -> io::Result<(String, libc::c_int)> {
    let mut request = empty_request();
    // SAFETY: the kernel writes an interface request to behind the pointer.
    unsafe { ioctl(file, TUNGETIFF, &raw mut request) }?;
    // SAFETY: TUNGETIFF fills in the flags, and any bits are valid ones.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let name = request.ifr_name.map(libc::c_char::cast_unsigned);
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    // IFF_MULTI_QUEUE and the others lie in the lower half; the sign means nothing.
    Ok((
        name.to_string_lossy().into_owned(),
        flags.cast_unsigned().into(),
    ))
}

fn empty_request() -> libc::ifreq {
    // SAFETY: all zeroes is a valid request: an empty name and a union of numbers.
    unsafe { std::mem::zeroed() }
}

/// # Safety
/// `argument` must be what the kernel expects for `request`.
unsafe fn ioctl<T>(
    file: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: *const T,
) -> io::Result<()> {
    // SAFETY: by the contract of this function.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
#[path = "tap_test.rs"]
pub(crate) mod tests;
