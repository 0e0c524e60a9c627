use super::Samples;

#[test]
fn the_first_round_does_not_count() {
    let mut samples = Samples::default();
    samples.add(0, 1.0);
    assert_eq!(samples.min(), None);
    for (round, number) in [(1, 7.0), (2, 3.0), (3, 5.0)] {
        samples.add(round, number);
    }
    let three = (samples.min(), samples.median(), samples.max());
    assert_eq!(three, (Some(3.0), Some(5.0), Some(7.0)));
}

#[test]
fn the_spread_is_that_of_the_number_farthest_from_the_middle() {
    let mut samples = Samples::default();
    assert_eq!(samples.spread(), None);
    for (round, number) in [(1, 90.0), (2, 100.0), (3, 125.0)] {
        samples.add(round, number);
    }
    assert_eq!(samples.spread(), Some(25.0));
}
