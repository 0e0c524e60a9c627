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
