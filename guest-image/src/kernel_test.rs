use super::*;

#[test]
fn an_option_that_cannot_be_set_is_explained() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(
        tree.path().join("Kconfig"),
        "config EROFS_FS\n\tbool \"EROFS\"\n\tdepends on BLOCK && MISC_FILESYSTEMS\n",
    )
    .unwrap();
    let asked = Config::parse("CONFIG_EROFS_FS=y\nCONFIG_NO_SUCH=y\n");
    let result = Config::parse("CONFIG_BLOCK=y\n");
    assert_eq!(
        explain(&asked.unmet_in(&result), tree.path(), &result),
        "this kernel source does not take all of guest-image/kernel:\n  \
         CONFIG_EROFS_FS was asked to be y and is off: likely because CONFIG_MISC_FILESYSTEMS is off (Kconfig)\n  \
         CONFIG_NO_SUCH was asked to be y and is off: no Kconfig file of this source defines it"
    );
}

#[test]
fn the_key_changes_with_source_patches_and_options_but_not_with_comments() {
    let fragments =
        |text: &str| Fragments::merge(&[("a.config".to_owned(), text.to_owned())]).unwrap();
    let patches = |folder: &Path| Patches::read(folder).unwrap();
    let none = patches(Path::new("/no/such/folder"));
    let base = key("6.12.1", &none, &fragments("# Why.\nCONFIG_A=y\n")).unwrap();
    assert_eq!(
        base,
        key("6.12.1", &none, &fragments("# Why.\nCONFIG_A=y\n")).unwrap()
    );
    assert_eq!(
        base,
        key(
            "6.12.1",
            &none,
            &fragments("# A better reason.\nCONFIG_A=y\n")
        )
        .unwrap()
    );
    assert_ne!(
        base,
        key("6.12.2", &none, &fragments("# Why.\nCONFIG_A=y\n")).unwrap()
    );
    assert_ne!(
        base,
        key("6.12.1", &none, &fragments("# Why.\nCONFIG_B=y\n")).unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("1-a.patch"), "").unwrap();
    let one = patches(folder.path());
    assert_ne!(
        base,
        key("6.12.1", &one, &fragments("# Why.\nCONFIG_A=y\n")).unwrap()
    );
}

#[test]
fn nothing_of_the_environment_reaches_the_build() {
    let command = make(Path::new("/src"), Path::new("/out"));
    let names: Vec<_> = command
        .get_envs()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "KBUILD_BUILD_HOST",
            "KBUILD_BUILD_TIMESTAMP",
            "KBUILD_BUILD_USER",
            "KBUILD_BUILD_VERSION",
            "LC_ALL",
            "LOCALVERSION",
            "PATH",
            "TZ"
        ]
    );
}

#[test]
fn differences_are_found_at_the_end_too() {
    assert_eq!(first_difference(b"same", b"same"), None);
    assert_eq!(first_difference(b"same", b"sane"), Some(2));
    assert_eq!(first_difference(b"same", b"same and more"), Some(4));
}

/// A whole build more: `CAISSON_REPRODUCIBLE=1 cargo test -p caisson-guest-image -- --ignored`.
#[test]
#[ignore = "compiles a kernel from nothing, 10 minutes or more; set CAISSON_REPRODUCIBLE=1"]
fn two_builds_of_the_kernel_are_equal() {
    if std::env::var_os("CAISSON_REPRODUCIBLE").is_none() {
        eprintln!("skipped: CAISSON_REPRODUCIBLE is not set");
        return;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    verify_kernel_reproducible(&Options::new(workspace).unwrap()).unwrap();
}
