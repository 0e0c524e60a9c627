use std::fs::File;
use std::io::Write;

use super::{JailError, number};

#[path = "jail_test/intruder.rs"]
mod intruder;

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_user_is_a_number_and_not_root() {
    for (text, expected) in [
        ("1\n", 1),
        ("4294967294", u32::MAX - 1),
        ("2100000017\n", 2_100_000_017),
    ] {
        assert_eq!(number(&file(text)).unwrap(), expected);
    }
    for text in [
        "",
        "0",
        "0\n",
        "4294967295",
        "-1",
        "1 2",
        "root",
        "10000000000000",
    ] {
        assert!(
            matches!(number(&file(text)), Err(JailError::Identity(_))),
            "{text:?}"
        );
    }
}
