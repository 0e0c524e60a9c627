use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::{ANNOTATION, FailPoints, POINTS};
use crate::error::TaskError;
use crate::fail_point::Point;

fn armed(text: &str, bundle: &Path) -> Result<FailPoints, String> {
    let points = FailPoints::default();
    let annotations = HashMap::from([(ANNOTATION.to_owned(), text.to_owned())]);
    points
        .arm(&annotations, bundle)
        .map_err(|error| error.to_string())?;
    Ok(points)
}

#[test]
fn every_point_has_a_name_of_its_own() {
    let names: HashSet<_> = POINTS.iter().map(|(_, name)| name).collect();
    assert_eq!(names.len(), POINTS.len());
}

#[test]
fn a_point_acts_once_and_is_noted_and_the_others_do_nothing() {
    let bundle = tempfile::tempdir().unwrap();
    let points = armed("kill=error,start=delay(1)", bundle.path()).unwrap();
    assert_eq!(points.pass_blocking(Point::Shutdown), Ok(()));
    let failed = Err(TaskError::Internal("fail point kill".into()));
    assert_eq!(points.pass_blocking(Point::Kill), failed);
    assert_eq!(points.pass_blocking(Point::Start), Ok(()));
    assert_eq!(points.pass_blocking(Point::Kill), Ok(()));
    let passed = fs::read_to_string(bundle.path().join("fail-points")).unwrap();
    assert_eq!(passed, "kill\nstart\n");
}

#[test]
fn what_is_not_a_point_or_an_action_is_named() {
    let bundle = Path::new("/");
    for (text, named) in [
        ("kill", "\"kill\" is not POINT=ACTION"),
        ("kil=error", "no point \"kil\""),
        ("kill=explode", "\"explode\" is not an action"),
        ("kill=delay(soon)", "\"delay(soon)\" is not an action"),
        ("kill=error,", "\"\" is not POINT=ACTION"),
    ] {
        let message = armed(text, bundle).unwrap_err();
        assert!(message.contains(named), "{text}: {message}");
        assert!(message.contains(ANNOTATION), "{text}: {message}");
    }
}
