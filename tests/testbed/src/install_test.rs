use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{InstalledFile, copy, forget_old, key};

fn file(source: &Path, destination: &str) -> InstalledFile {
    InstalledFile {
        source: source.into(),
        destination: destination.into(),
    }
}

#[test]
fn a_changed_file_changes_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program");
    fs::write(&source, "one").unwrap();
    let files = [file(&source, "/usr/local/bin/program")];
    let first = key(&files).unwrap();
    assert_eq!(key(&files).unwrap(), first);
    let later = SystemTime::now() + Duration::from_secs(1);
    fs::File::open(&source)
        .unwrap()
        .set_modified(later)
        .unwrap();
    assert_ne!(key(&files).unwrap(), first);
    let elsewhere = [file(&source, "/usr/local/bin/other")];
    assert_ne!(key(&elsewhere).unwrap(), key(&files).unwrap());
}

#[test]
fn a_missing_file_is_named() {
    let error = key(&[file(Path::new("/no/such/program"), "/opt/x")]).unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[test]
fn only_the_installed_directories_can_be_filled() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program");
    fs::write(&source, "one").unwrap();
    let tree = folder.path().join("tree");
    copy(&file(&source, "/opt/tests/program"), &tree).unwrap();
    assert_eq!(fs::read(tree.join("opt/tests/program")).unwrap(), b"one");
    for place in ["/etc/passwd", "opt/program", "/opt/../etc/passwd"] {
        let error = copy(&file(&source, place), &tree).unwrap_err();
        assert!(
            error.to_string().contains("only /usr/local and /opt"),
            "{error}"
        );
    }
}

#[test]
fn only_the_latest_disks_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for age in 0..5_u64 {
        let path = folder.path().join(format!("install-{age}.ext4"));
        let disk = fs::File::create(path).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age * 100);
        disk.set_modified(time).unwrap();
    }
    fs::write(folder.path().join("other"), "").unwrap();
    forget_old(folder.path()).unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "install-0.ext4",
            "install-1.ext4",
            "install-2.ext4",
            "other"
        ]
    );
}
