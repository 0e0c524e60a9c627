use std::time::{Duration, Instant};

use super::{Plan, Progress, Random, parse};

#[test]
fn a_seed_is_read_as_it_was_printed() {
    assert_eq!(parse("0xca15505"), Ok(0x0ca1_5505));
    assert_eq!(parse("17"), Ok(17));
    assert!(parse("ca15505").is_err());
}

#[test]
fn a_seed_gives_the_same_round_again() {
    let round = |seed| {
        let mut random = Random::new(seed, Progress::default().into());
        [random.next(), random.number(), random.below(9)]
    };
    assert_eq!(round(5), round(5));
    assert_ne!(round(5), round(6));
}

#[test]
fn the_number_of_rounds_or_the_time_ends_a_run() {
    let mut plan = Plan {
        first: 0,
        rounds: 3,
        seconds: None,
        fixed: false,
    };
    let now = Instant::now();
    assert!(plan.goes_on(2, now));
    assert!(!plan.goes_on(3, now));
    plan.seconds = Some(Duration::from_secs(1_000_000));
    assert!(plan.goes_on(3, now));
    plan.seconds = Some(Duration::ZERO);
    assert!(plan.goes_on(0, now), "one round at least");
    assert!(!plan.goes_on(1, now));
}
