use std::os::fd::AsRawFd;
use std::time::Duration;

use caisson_control::{Limits, Rate};

use super::{Bucket, RateLimiter};

const SECOND: u64 = 1_000_000_000;

fn rate(per_second: u64, burst: u64) -> Rate {
    Rate { per_second, burst }
}

#[test]
fn without_limits_everything_passes() {
    let mut limiter = RateLimiter::new(&Limits::default()).unwrap();
    for _ in 0..1000 {
        assert!(limiter.may_pass());
        limiter.charge(u64::MAX, u64::MAX);
    }
    assert_eq!(limiter.throttled(), 0);
}

#[test]
fn a_burst_passes_at_once_and_then_the_rate_holds() {
    let mut bucket = Bucket::new(rate(10, 3), 0);
    let mut passed = 0;
    // Ten seconds in steps of a millisecond.
    for now in (0..=10 * SECOND).step_by(1_000_000) {
        if bucket.wait(now).is_zero() {
            bucket.take(1);
            passed += 1;
        }
    }
    assert_eq!(passed, 3 + 100);
}

#[test]
fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
    let mut bucket = Bucket::new(rate(100, 10), 0);
    assert!(bucket.wait(0).is_zero());
    bucket.take(1010);
    assert_eq!(bucket.wait(0), Duration::from_millis(10_010));
    assert!(!bucket.wait(10 * SECOND).is_zero());
    assert!(bucket.wait(10 * SECOND + 10_000_000).is_zero());
}

#[test]
fn time_that_makes_no_whole_token_is_not_lost() {
    let mut bucket = Bucket::new(rate(1, 1), 0);
    bucket.take(1);
    for now in (0..SECOND).step_by(1_000_000) {
        assert!(!bucket.wait(now).is_zero());
    }
    assert!(bucket.wait(SECOND).is_zero());
}

#[test]
fn no_number_overflows() {
    let mut bucket = Bucket::new(rate(u64::MAX, u64::MAX), 0);
    bucket.take(u64::MAX);
    bucket.take(u64::MAX);
    bucket.wait(u64::MAX);
    let mut bucket = Bucket::new(rate(0, 0), 0);
    bucket.take(u64::MAX);
    assert_eq!(bucket.wait(0), Duration::from_nanos(u64::MAX));
}

#[test]
fn the_timer_tells_when_to_ask_again() {
    let limits = Limits {
        operations: Some(rate(1000, 1)),
        bytes: None,
    };
    let mut limiter = RateLimiter::new(&limits).unwrap();
    assert!(limiter.may_pass());
    limiter.charge(5, 0);
    assert!(!limiter.may_pass());
    assert_eq!(limiter.throttled(), 1);
    assert_eq!(limiter.timer(), limiter.timer.as_raw_fd());
    let timer = &limiter.timer;
    let mut fds = [rustix::event::PollFd::new(
        timer,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, None).unwrap();
    limiter.on_timer();
    assert!(limiter.may_pass());
}
