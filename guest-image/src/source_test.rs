use super::*;

fn no_patches() -> Patches {
    Patches::read(Path::new("/no/such/folder")).unwrap()
}

/// A folder that passes for a source tree.
fn tree(path: &Path) {
    fs::create_dir_all(path.join("arch/x86")).unwrap();
    fs::write(path.join("Makefile"), "all:\n").unwrap();
    fs::write(path.join("arch/x86/Kconfig"), "").unwrap();
}

#[test]
fn a_tarball_is_unpacked_once_and_again_when_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    tree(&dir.path().join("linux-1"));
    let tarball = dir.path().join("linux.tar");
    let pack = || {
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(dir.path())
                .arg("-cf")
                .arg(&tarball)
                .arg("linux-1"),
        )
        .unwrap();
    };
    pack();
    let source = Source::given(&tarball).unwrap();
    let target = dir.path().join("unpacked");
    let first = source.identity().unwrap();
    let folder = dir.path().join("patches");
    let unpack = |identity: Option<&str>| {
        let patches = Patches::read(&folder).unwrap();
        source.unpack(&target, identity, &patches).unwrap();
    };
    unpack(first.as_deref());
    assert!(target.join("arch/x86/Kconfig").exists());

    fs::write(target.join("mark"), "").unwrap();
    fs::create_dir(&folder).unwrap();
    let patch = "--- a/Makefile\n+++ b/Makefile\n@@ -1 +1 @@\n-all:\n+none:\n";
    fs::write(folder.join("1-a.patch"), patch).unwrap();
    unpack(first.as_deref());
    let patched = fs::read_to_string(target.join("Makefile")).unwrap();
    assert_eq!(patched, "none:\n");
    assert!(
        target.join("mark").exists(),
        "unpacked although nothing changed"
    );

    fs::write(dir.path().join("linux-1/more"), "").unwrap();
    pack();
    let second = source.identity().unwrap();
    assert_ne!(first, second);
    unpack(second.as_deref());
    assert!(target.join("more").exists());
    assert!(!target.join("mark").exists());
    let patched = fs::read_to_string(target.join("Makefile")).unwrap();
    assert_eq!(patched, "none:\n");

    // As if the program had been killed while it changed the tree.
    fs::write(target.join("mark"), "").unwrap();
    fs::write(target.join(".caisson-patches/changing"), "").unwrap();
    unpack(second.as_deref());
    assert!(!target.join("mark").exists());
}

#[test]
fn what_is_no_source_is_refused_by_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| format!("{:#}", Source::given(path).unwrap_err());
    assert!(message(&dir.path().join("absent")).contains("cannot find the kernel source"));
    assert!(message(dir.path()).contains("no arch/x86/Kconfig"));

    tree(dir.path());
    assert!(matches!(Source::given(dir.path()), Ok(Source::Tree(_))));
    fs::write(dir.path().join(".config"), "").unwrap();
    assert!(message(dir.path()).contains("mrproper"));

    let file = dir.path().join("notes.txt");
    fs::write(&file, "not a tarball").unwrap();
    let error = Source::given(&file)
        .unwrap()
        .unpack(&dir.path().join("out"), Some("x"), &no_patches())
        .unwrap_err();
    assert!(format!("{error:#}").contains("is it a tarball of a kernel source?"));
}

#[test]
fn a_downloaded_package_is_found_without_the_network() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(downloaded(dir.path()).unwrap(), None);
    let package = dir.path().join("source/linux-source-6.12_6.12.1-1_all.deb");
    fs::create_dir_all(package.parent().unwrap()).unwrap();
    fs::write(&package, "").unwrap();
    assert_eq!(downloaded(dir.path()).unwrap(), Some(package.clone()));
    assert_eq!(
        Source::Package(package).folder_name(),
        "linux-source-6.12_6.12.1-1_all"
    );
}
