use std::cell::Cell;
use std::future::pending;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::time::{Instant, sleep};

use super::{extended, longest, parse, waits, within};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for nothing; how long, and how often the threads were looked at.
async fn given_up(waited: impl Fn(Duration) -> Duration) -> (Duration, u32) {
    let (start, looks) = (Instant::now(), Cell::new(0));
    let begin = || {
        let begun = Instant::now();
        let (waited, looks) = (&waited, &looks);
        move || {
            looks.set(looks.get() + 1);
            waited(begun.elapsed())
        }
    };
    let output = extended(LIMIT, begin, pending::<()>()).await;
    assert_eq!(output, None);
    (start.elapsed(), looks.get())
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_could_run_has_its_time_and_no_more() {
    let (waited, looks) = given_up(|_| Duration::ZERO).await;
    assert_eq!((waited.as_secs(), looks), (60, 1));
}

#[tokio::test(start_paused = true)]
async fn a_machine_with_a_tenth_of_a_processor_has_ten_times_its_time() {
    // Nine tenths of the time it waits; six seconds pass before anybody looks.
    let (waited, looks) = given_up(|time| time * 9 / 10).await;
    assert!((500..=546).contains(&waited.as_secs()), "{waited:?}");
    assert!(looks < 40, "{looks}");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_only_waits_has_an_end_as_well() {
    let (waited, looks) = given_up(|time| time).await;
    assert_eq!(waited.as_secs(), 600);
    assert!(looks < 200, "{looks}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_the_wait_also_one_that_comes_late() {
    for seconds in [0, 3, 59, 100] {
        let start = Instant::now();
        let answer = async {
            sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        let waited = || || Duration::from_secs(50);
        assert_eq!(extended(LIMIT, waited, answer).await, Some(seconds));
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_quick_is_not_looked_at() {
    let begin = || {
        panic!("looked at");
        #[expect(unreachable_code, reason = "it gives the closure its type")]
        || Duration::ZERO
    };
    assert_eq!(extended(LIMIT, begin, async { 7 }).await, Some(7));
}

#[tokio::test(start_paused = true)]
async fn processes_that_are_gone_have_their_time() {
    let start = Instant::now();
    let gone = [u32::MAX, u32::MAX - 1];
    assert_eq!(within(gone, LIMIT, pending::<()>()).await, None);
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[test]
fn the_thread_that_waited_longest_counts_from_when_it_was_first_seen() {
    let seconds = Duration::from_secs;
    let before = [("1", 10), ("2", 100)];
    let now = [("1", 14), ("2", 103), ("3", 2)];
    let [before, now] = [before.to_vec(), now.to_vec()].map(|threads| {
        let threads = threads.into_iter();
        threads
            .map(|(thread, waited)| (thread.to_owned(), seconds(waited)))
            .collect()
    });
    assert_eq!(longest(&before, &now), seconds(4));
    assert_eq!(longest(&now, &before), Duration::ZERO);
}

#[test]
fn what_the_kernel_says_is_understood() {
    assert_eq!(parse("12 3456 7\n"), Some(Duration::from_nanos(3456)));
    for text in ["", "12\n", "12 x 7\n"] {
        assert_eq!(parse(text), None, "{text:?}");
    }
}

#[test]
fn a_thread_that_shares_its_processor_waits() {
    let allowed = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.unwrap());
    let own = [std::process::id()];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                sched_setaffinity(None, &one).unwrap();
                while !done.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
        }
        let before = waits(&own);
        let begun = std::time::Instant::now();
        let mut waited = Duration::ZERO;
        while waited < Duration::from_millis(20) && begun.elapsed() < LIMIT {
            waited = longest(&before, &waits(&own));
        }
        done.store(true, Ordering::Relaxed);
        assert!(waited >= Duration::from_millis(20), "{waited:?}");
    });
}
