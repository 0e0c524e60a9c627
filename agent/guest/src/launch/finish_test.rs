use super::*;

const USERS: &str =
    "root:x:0:0:root:/root:/bin/sh\nbroken\nnohome:x:7:7:::\nweb:x:33:33:www:/var/www:/bin/false\n";

#[test]
fn the_home_of_a_user_is_read_from_the_image() {
    assert_eq!(home(USERS, 0), Some("/root"));
    assert_eq!(home(USERS, 33), Some("/var/www"));
    assert_eq!(home(USERS, 7), None);
    assert_eq!(home(USERS, 3), None);
}

#[test]
fn the_last_entry_of_a_name_counts_and_the_order_stays() {
    let env = ["A=1", "B=2", "novalue", "A=3", "HOME=/srv", "C=x=y"].map(str::to_owned);
    assert_eq!(environment(&env, 0), ["B=2", "A=3", "HOME=/srv", "C=x=y"]);
}

#[test]
fn home_is_added_when_it_is_missing_or_empty() {
    assert_eq!(environment(&["HOME=".to_owned()], u32::MAX), ["HOME=/"]);
    assert_eq!(environment(&[], u32::MAX), ["HOME=/"]);
}

#[test]
fn a_working_directory_is_made_with_those_above_it() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("a/b/c");
    create_directories(&deep).unwrap();
    assert!(deep.is_dir());
    create_directories(&deep).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let error = create_directories(&root.path().join("file/x")).unwrap_err();
    assert_eq!(plain(&error), "not a directory");
}
