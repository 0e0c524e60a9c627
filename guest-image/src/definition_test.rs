use super::*;

fn files(files: &[(&str, &str)]) -> KconfigFiles {
    let tree = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    KconfigFiles::read(tree.path())
}

#[test]
fn an_option_depends_on_itself_its_blocks_and_the_files_around() {
    let files = files(&[
        ("Kconfig", "mainmenu \"Linux\"\nsource \"fs/Kconfig\"\n"),
        ("arch/arm/Kconfig", "config EROFS_FS\n\tdepends on ARM\n"),
        (
            "fs/Kconfig",
            "if CLOSED\nendif\nif BLOCK\nmenuconfig MISC_FILESYSTEMS\n\tbool \"Others\"\n\
             if MISC_FILESYSTEMS\nsource \"fs/erofs/Kconfig\"\nendif\nendif\n",
        ),
        (
            "fs/erofs/Kconfig",
            "menu \"EROFS\"\n\tdepends on READ_ONLY\n\
             config FIRST\n\tbool \"first\"\n\tdepends on NOT_OURS\n\
             config EROFS_FS\n\ttristate \"EROFS\" if EXPERT\n\tdepends on CRC32 && !CRAMFS\n\
             \thelp\n\t  depends on NOTHING_HERE\n\
             config LAST\n\tdepends on NOR_THIS\nendmenu\n",
        ),
    ]);
    let definition = files.definition("CONFIG_EROFS_FS").unwrap();
    assert_eq!(definition.file, Path::new("fs/erofs/Kconfig"));
    assert_eq!(
        definition.depends_on,
        [
            "READ_ONLY",
            "EXPERT",
            "CRC32 && !CRAMFS",
            "BLOCK",
            "MISC_FILESYSTEMS"
        ]
    );
    let config = Config::parse(
        "CONFIG_BLOCK=y\nCONFIG_READ_ONLY=y\nCONFIG_CRC32=y\n# CONFIG_EXPERT is not set\n",
    );
    assert_eq!(
        definition.missing_in(&config),
        ["CONFIG_EXPERT", "CONFIG_MISC_FILESYSTEMS"]
    );
}

#[test]
fn an_unknown_option_has_no_definition() {
    let files = files(&[("Kconfig", "config OTHER\n\tbool\n")]);
    assert_eq!(files.definition("CONFIG_ABSENT"), None);
    assert!(files.definition("CONFIG_OTHER").is_some());
}

#[test]
fn files_that_include_each_other_do_not_hold_up_the_search() {
    let files = files(&[
        (
            "a/Kconfig",
            "if A\nsource \"b/Kconfig\"\nendif\nconfig X\n\tbool\n",
        ),
        ("b/Kconfig", "if B\nsource \"a/Kconfig\"\nendif\n"),
    ]);
    let definition = files.definition("CONFIG_X").unwrap();
    assert_eq!(definition.depends_on.len(), MAX_DEPTH);
}

#[test]
fn alternatives_are_named_only_if_none_holds() {
    let missing = |expression: &str| {
        let definition = Definition {
            file: "Kconfig".into(),
            depends_on: vec![expression.to_owned()],
        };
        definition.missing_in(&Config::parse("CONFIG_ON=y\n"))
    };
    assert_eq!(missing("ON || OFF"), [""; 0]);
    assert_eq!(missing("(OFF || !OFF) && ON"), [""; 0]);
    assert_eq!(
        missing("(OFF || ALSO_OFF) && ON"),
        ["CONFIG_OFF", "CONFIG_ALSO_OFF"]
    );
    assert_eq!(missing("!ON && $(success,true) && OFF"), ["CONFIG_OFF"]);
}
