//! What the io thread learns from epoll, without a thread.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::virtio::device::Watch;

/// The tokens of those descriptors that are ready now.
pub(crate) fn ready(watches: &[Watch]) -> Vec<u32> {
    let mut fds: Vec<_> = watches
        .iter()
        .map(|watch| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, watch.readable);
            flags.set(PollFlags::OUT, watch.writable);
            PollFd::from_borrowed_fd(borrow(watch), flags)
        })
        .collect();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&now)).unwrap();
    let ready = watches.iter().zip(&fds);
    ready
        .filter(|(_, fd)| !fd.revents().is_empty())
        .map(|(watch, _)| watch.token)
        .collect()
}

#[allow(unsafe_code, reason = "a watch is a number only")]
fn borrow(watch: &Watch) -> BorrowedFd<'_> {
    // SAFETY: the device keeps a descriptor open as long as it watches it, and does not run while
    // the result is in use.
    unsafe { BorrowedFd::borrow_raw(watch.fd) }
}
