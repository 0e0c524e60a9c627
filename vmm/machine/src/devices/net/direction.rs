//! One direction of a network interface, all its queues together: what may pass and what passed.

use std::io;
use std::os::fd::RawFd;

use caisson_control::Limits;

use crate::rate_limit::RateLimiter;

/// One direction.
#[derive(Debug)]
pub(super) struct Direction {
    limiter: Option<RateLimiter>,
    bytes: u64,
    dropped: u64,
}

impl Direction {
    /// A direction with these limits.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(super) fn new(limits: &Limits) -> io::Result<Self> {
        let limiter = if *limits == Limits::default() {
            None
        } else {
            Some(RateLimiter::new(limits)?)
        };
        Ok(Self {
            limiter,
            bytes: 0,
            dropped: 0,
        })
    }

    /// Whether a packet may pass now. If not, the timer says when to ask again.
    pub(super) fn may_pass(&mut self) -> bool {
        self.limiter.as_mut().is_none_or(RateLimiter::may_pass)
    }

    /// A packet of so many bytes, without the header of virtio, passed.
    pub(super) fn passed(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(limiter) = &mut self.limiter {
            limiter.charge(1, bytes);
        }
    }

    /// A packet was lost.
    pub(super) fn dropped(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// The timer, if there is a limit.
    pub(super) fn timer(&self) -> Option<RawFd> {
        self.limiter.as_ref().map(RateLimiter::timer)
    }

    /// The timer became readable.
    pub(super) fn on_timer(&mut self) {
        if let Some(limiter) = &mut self.limiter {
            limiter.on_timer();
        }
    }

    /// Bytes of the packets that passed.
    pub(super) fn total_bytes(&self) -> u64 {
        self.bytes
    }

    /// Packets lost.
    pub(super) fn total_dropped(&self) -> u64 {
        self.dropped
    }

    /// Times a packet had to wait.
    pub(super) fn total_throttled(&self) -> u64 {
        self.limiter.as_ref().map_or(0, RateLimiter::throttled)
    }
}
