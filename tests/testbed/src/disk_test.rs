use std::fs;

use super::{UNIT, require_space, size_for};

#[test]
fn a_disk_has_room_for_its_files_and_the_spare() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::write(folder.path().join("a/b"), vec![0; 5000]).unwrap();
    assert_eq!(size_for(folder.path(), 1).unwrap(), UNIT);
    assert_eq!(size_for(folder.path(), UNIT - 8192).unwrap(), UNIT);
    assert_eq!(size_for(folder.path(), UNIT - 8191).unwrap(), 2 * UNIT);
}

#[test]
fn too_little_space_is_said_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    require_space(folder.path(), 1, "nothing much").unwrap();
    let error = require_space(folder.path(), u64::MAX, "everything").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("everything needs 17592186044415 MiB"),
        "{text}"
    );
    assert!(text.contains("CAISSON_CACHE"), "{text}");
}
