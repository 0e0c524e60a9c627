use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::Version;

fn read(directory: &Path) -> Option<Version> {
    let opened = fs::File::open(directory).unwrap();
    Version::read(&opened.into()).unwrap()
}

/// A volume as the kubelet fills it, with the files `a` and `b`.
fn volume() -> TempDir {
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("..1")).unwrap();
    symlink("..1", volume.path().join("..data")).unwrap();
    for name in ["b", "a"] {
        fs::write(volume.path().join("..1").join(name), name).unwrap();
        symlink(format!("..data/{name}"), volume.path().join(name)).unwrap();
    }
    volume
}

#[test]
fn a_volume_of_the_kubelet_has_a_version_and_names() {
    let volume = volume();
    let version = read(volume.path()).unwrap();
    assert_eq!(version.directory, "..1");
    assert_eq!(version.names, ["a", "b"]);
    // In the middle of an update.
    symlink("..2", volume.path().join("..data_tmp")).unwrap();
    assert_eq!(read(volume.path()).unwrap(), version);
    fs::rename(
        volume.path().join("..data_tmp"),
        volume.path().join("..data"),
    )
    .unwrap();
    assert_eq!(read(volume.path()).unwrap().directory, "..2");
}

#[test]
fn other_directories_are_none() {
    assert_eq!(read(tempfile::tempdir().unwrap().path()), None);
    for target in ["/etc", "..", "elsewhere", "../..", "..a/b"] {
        let volume = volume();
        fs::remove_file(volume.path().join("..data")).unwrap();
        symlink(target, volume.path().join("..data")).unwrap();
        assert_eq!(read(volume.path()), None, "{target}");
    }
    let made = volume();
    fs::write(made.path().join("file"), "").unwrap();
    assert_eq!(read(made.path()), None);
    let made = volume();
    symlink("/etc/passwd", made.path().join("link")).unwrap();
    assert_eq!(read(made.path()), None);
}

#[test]
fn a_volume_with_too_many_names_is_none() {
    let volume = volume();
    for n in 0..1022 {
        symlink(format!("..data/{n}"), volume.path().join(n.to_string())).unwrap();
    }
    assert_eq!(read(volume.path()).unwrap().names.len(), 1024);
    symlink("..data/more", volume.path().join("more")).unwrap();
    assert_eq!(read(volume.path()), None);
}
