//! Rate limits of a device: two token buckets, for operations and for bytes.
//!
//! A request is let through as long as no bucket is empty and then takes what it costs, even if that
//! is more than is left: the debt is paid before the next one. So no request is too large for a
//! bucket, and in the long run the rate is exact.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use caisson_control::{Limits, Rate};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::events::monotonic_ns;

const SECOND: u128 = 1_000_000_000;

/// The limits of one direction of a device.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
    timer: OwnedFd,
    /// Whether the timer runs and nothing may pass.
    waiting: bool,
    throttled: u64,
}

impl RateLimiter {
    /// A limiter with full buckets.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub(crate) fn new(limits: &Limits) -> io::Result<Self> {
        let now = monotonic_ns();
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Ok(Self {
            operations: bucket(limits.operations),
            bytes: bucket(limits.bytes),
            timer: rustix::time::timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?,
            waiting: false,
            throttled: 0,
        })
    }

    /// Whether a request may pass now. If not, the timer's descriptor becomes readable when it is
    /// time to ask again.
    pub(crate) fn may_pass(&mut self) -> bool {
        self.may_pass_at(monotonic_ns())
    }

    /// A request that passed cost this much.
    pub(crate) fn charge(&mut self, operations: u64, bytes: u64) {
        if let Some(bucket) = &mut self.operations {
            bucket.take(operations);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes);
        }
    }

    /// The descriptor to wait for.
    pub(crate) fn timer(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// The descriptor became readable.
    pub(crate) fn on_timer(&mut self) {
        // Only fails when there is nothing to read.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.waiting = false;
    }

    /// Times a request had to wait.
    pub(crate) fn throttled(&self) -> u64 {
        self.throttled
    }

    fn may_pass_at(&mut self, now: u64) -> bool {
        if self.waiting {
            return false;
        }
        let wait = [&mut self.operations, &mut self.bytes]
            .into_iter()
            .flatten()
            .map(|bucket| bucket.wait(now))
            .max()
            .unwrap_or(Duration::ZERO);
        if wait.is_zero() {
            return true;
        }
        self.throttled = self.throttled.saturating_add(1);
        // A timer that cannot be set must not keep the device waiting for ever.
        self.waiting = self.set_timer(wait).is_ok();
        false
    }

    fn set_timer(&self, after: Duration) -> io::Result<()> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let it_value = Timespec::try_from(after).map_err(io::Error::other)?;
        let timer = Itimerspec {
            it_interval: zero,
            it_value,
        };
        rustix::time::timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }
}

/// One token bucket.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// What is left; negative while a debt is being paid.
    level: i128,
    /// When the level was last brought up to date, in nanoseconds.
    updated: u64,
}

impl Bucket {
    fn new(rate: Rate, now: u64) -> Self {
        let rate = Rate {
            per_second: rate.per_second.max(1),
            burst: rate.burst.max(1),
        };
        Self {
            rate,
            level: rate.burst.into(),
            updated: now,
        }
    }

    fn take(&mut self, cost: u64) {
        self.level = self.level.saturating_sub(cost.into());
    }

    /// How long until something is left.
    fn wait(&mut self, now: u64) -> Duration {
        let per_second = u128::from(self.rate.per_second);
        let elapsed = u128::from(now.saturating_sub(self.updated));
        let gained = elapsed * per_second / SECOND;
        if gained > 0 {
            let gained_signed = i128::try_from(gained).unwrap_or(i128::MAX);
            let burst = i128::from(self.rate.burst);
            self.level = self.level.saturating_add(gained_signed).min(burst);
            // Only the time that made whole tokens is used up; the rest counts next time.
            let used = u64::try_from(gained * SECOND / per_second).unwrap_or(u64::MAX);
            self.updated = self.updated.saturating_add(used);
        }
        if self.level > 0 {
            return Duration::ZERO;
        }
        let missing = self.level.unsigned_abs().saturating_add(1);
        let nanoseconds = missing.saturating_mul(SECOND).div_ceil(per_second);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
#[path = "rate_limit_test.rs"]
mod tests;
