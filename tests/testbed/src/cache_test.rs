use std::fs;

use super::{Cache, Key, clean_at};

#[test]
fn keys_tell_inputs_and_their_boundaries_apart() {
    assert_eq!(Key::of(&["a", "b"]), Key::of(&["a", "b"]));
    assert_ne!(Key::of(&["ab", "c"]), Key::of(&["a", "bc"]));
    assert_ne!(Key::of(&["a", "b"]), Key::of(&["b", "a"]));
}

#[test]
fn an_artefact_is_made_once_and_replaces_its_earlier_version() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("cache")).unwrap();
    let make = |key: &str, text: &str| {
        cache
            .artefact("root", &Key::of(&[key]), |path| Ok(fs::write(path, text)?))
            .unwrap()
    };
    let other = cache
        .artefact("root-2", &Key::of(&["x"]), |path| {
            Ok(fs::write(path, "other")?)
        })
        .unwrap();
    let first = make("one", "first");
    assert_eq!(fs::read_to_string(&first).unwrap(), "first");
    assert_eq!(make("one", "not made again"), first);
    assert_eq!(fs::read_to_string(&first).unwrap(), "first");
    let second = make("two", "second");
    assert!(cache.has_any("root").unwrap());
    assert!(!cache.has_any("disk").unwrap());
    assert!(!first.exists(), "the earlier version is removed");
    assert_eq!(fs::read_to_string(second).unwrap(), "second");
    assert!(other.exists(), "an artefact with a longer name stays");
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().to_path_buf()).unwrap();
    let key = Key::of(&["x"]);
    let result = cache.artefact("disk", &key, |path| {
        fs::write(path, "half")?;
        anyhow::bail!("broken off")
    });
    assert!(result.is_err());
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["lock"]);
}

#[test]
fn cleaning_removes_everything_and_may_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let cache = Cache::at(root.clone()).unwrap();
    let make = |path: &std::path::Path| Ok(fs::create_dir_all(path.join("deep/down"))?);
    cache.artefact("root", &Key::of(&["x"]), make).unwrap();
    drop(cache);
    clean_at(&root).unwrap();
    assert!(!root.exists());
    clean_at(&root).unwrap();
    assert!(!root.exists(), "cleaning makes no folder");
}
