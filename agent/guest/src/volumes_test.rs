use std::path::{Path, PathBuf};

use super::Volumes;

#[test]
fn a_volume_is_left_with_its_last_user() {
    let volumes = Volumes::default();
    let (one, two) = (PathBuf::from("/no/such/1"), PathBuf::from("/no/such/2"));
    let count = |path: &Path| volumes.lock().get(path).copied().unwrap_or(0);
    // A container may mount a volume at two places.
    let first = volumes.enter(vec![one.clone(), two.clone(), one.clone()]);
    let second = volumes.enter(vec![one.clone()]);
    assert_eq!((count(&one), count(&two)), (3, 1));
    drop(first);
    assert_eq!((count(&one), count(&two)), (1, 0));
    drop(second);
    assert!(volumes.lock().is_empty());
}
