use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use caisson_protocol::agent::UpdatedVolume;
use rustix::fs::inotify;
use tempfile::TempDir;

use super::{MAX_BYTES, Mirror};

/// A volume as the kubelet fills it, and where it is kept.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.source()).unwrap();
        place
    }

    fn source(&self) -> PathBuf {
        self.0.path().join("source")
    }

    fn kept(&self) -> PathBuf {
        self.0.path().join("kept")
    }

    /// Makes a version with these files.
    fn version(&self, version: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.source().join(version).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn make(&self, volume: &UpdatedVolume) -> std::io::Result<Mirror> {
        Mirror::make(&self.source(), &self.kept(), volume)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.kept().join(name)).ok()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.kept()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn told(version: &str, names: &[&str]) -> UpdatedVolume {
    UpdatedVolume {
        version: version.to_owned(),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

#[test]
fn a_volume_is_kept_with_its_links_modes_and_times() {
    let place = Place::new();
    place.version("..1", &[("key", "text"), ("folder/inner", "deep")]);
    let key = place.source().join("..1/key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    symlink("key", place.source().join("..1/alias")).unwrap();
    fs::set_permissions(place.source(), fs::Permissions::from_mode(0o2750)).unwrap();
    place
        .make(&told("..1", &["key", "folder", "alias"]))
        .unwrap();

    assert_eq!(place.names(), ["..1", "..data", "alias", "folder", "key"]);
    assert_eq!(place.read("key").unwrap(), "text");
    assert_eq!(place.read("folder/inner").unwrap(), "deep");
    assert_eq!(place.read("alias").unwrap(), "text");
    let (kept, given) = (
        fs::metadata(place.kept().join("key")).unwrap(),
        fs::metadata(&key).unwrap(),
    );
    assert_eq!(kept.mode(), given.mode());
    assert_eq!((kept.uid(), kept.gid()), (given.uid(), given.gid()));
    assert_eq!(kept.modified().unwrap(), given.modified().unwrap());
    assert_eq!(fs::metadata(place.kept()).unwrap().mode() & 0o7777, 0o2750);
}

#[test]
fn an_update_is_what_the_kubelet_does_for_who_watches() {
    let place = Place::new();
    place.version("..1", &[("stays", "before"), ("goes", "")]);
    let mirror = place.make(&told("..1", &["stays", "goes"])).unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let flags =
        inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, place.kept(), flags).unwrap();

    place.version("..2", &[("stays", "after"), ("comes", "new")]);
    mirror.update(&told("..2", &["stays", "comes"])).unwrap();
    assert_eq!(place.names(), ["..2", "..data", "comes", "stays"]);
    assert_eq!(place.read("stays").unwrap(), "after");
    assert_eq!(place.read("comes").unwrap(), "new");

    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut buffer);
    let mut seen = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().unwrap().to_str().unwrap().to_owned();
        seen.push((event.events() & !inotify::ReadFlags::ISDIR, name));
    }
    use inotify::ReadFlags as Event;
    let mut expected = vec![
        (Event::CREATE, "..2".to_owned()),
        (Event::CREATE, "..data_tmp".to_owned()),
        (Event::MOVED_TO, "..data".to_owned()),
        (Event::CREATE, "comes".to_owned()),
    ];
    let removed = seen.split_off(expected.len());
    assert_eq!(seen, expected);
    expected.clear();
    let mut names: Vec<_> = removed.iter().map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["..1", "goes"]);
}

#[test]
fn an_update_to_what_is_there_changes_nothing_and_one_that_fails_keeps_the_old() {
    let place = Place::new();
    place.version("..1", &[("key", "before")]);
    let mirror = place.make(&told("..1", &["key"])).unwrap();
    mirror.update(&told("..1", &["key"])).unwrap();
    let gone = mirror.update(&told("..2", &["key"])).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(place.names(), ["..1", "..data", "key"]);
    assert_eq!(place.read("key").unwrap(), "before");
}

#[test]
fn what_is_too_large_is_not_kept() {
    let place = Place::new();
    let half = "x".repeat(usize::try_from(MAX_BYTES / 2).unwrap());
    place.version("..1", &[("one", &half), ("two", &half)]);
    let names = ["one", "two", "three"];
    let mirror = place.make(&told("..1", &names)).unwrap();
    place.version("..2", &[("one", &half), ("two", &half), ("three", "x")]);
    let error = mirror.update(&told("..2", &names)).unwrap_err();
    assert!(error.to_string().contains("4194304 bytes"), "{error}");
    assert!(!place.kept().join("..2").exists());
    assert_eq!(place.read("one").unwrap().len(), half.len());

    let many: Vec<_> = (0..1025).map(|n| n.to_string()).collect();
    let files: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
    place.version("..3", &files);
    let error = mirror.update(&told("..3", &[])).unwrap_err();
    assert!(error.to_string().contains("1024 files"), "{error}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = Place::new();
    place.version("..1", &[("key", "text")]);
    for (version, name) in [
        ("../..", "key"),
        ("..", "key"),
        ("..data", "key"),
        ("1", "key"),
        ("", "key"),
        ("..1", "../key"),
        ("..1", "..data"),
        ("..1", "."),
        ("..1", ""),
        ("..1", "a\0"),
    ] {
        let error = place.make(&told(version, &[name])).unwrap_err();
        assert!(error.to_string().contains("kubelet"), "{version} {name}");
    }
}

#[test]
fn links_of_a_version_are_copied_and_not_followed() {
    let place = Place::new();
    place.version("..1", &[("key", "text")]);
    symlink("/etc/passwd", place.source().join("..1/link")).unwrap();
    symlink("/etc", place.source().join("..2")).unwrap();
    let mirror = place.make(&told("..1", &["key", "link"])).unwrap();
    assert_eq!(
        fs::read_link(place.kept().join("..1/link")).unwrap(),
        PathBuf::from("/etc/passwd")
    );
    assert!(mirror.update(&told("..2", &["key"])).is_err());
    assert_eq!(place.read("key").unwrap(), "text");
}
