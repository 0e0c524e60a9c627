use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// As in `init`, with the name of the entry before it as long as it must be for the worst place.
#[test]
fn a_large_file_begins_at_a_page_wherever_its_entry_is() {
    for length in (1..4096).step_by(7) {
        let mut archive = Archive::default();
        let before = Entry::Directory { mode: 0o755 };
        archive.add(&"a".repeat(length), before).unwrap();
        let mode = 0o755;
        let content = vec![b'x'; PAGE];
        archive.add("b", Entry::File { mode, content }).unwrap();
        let bytes = archive.to_bytes().unwrap();
        let at = bytes.iter().position(|&byte| byte == b'x').unwrap();
        let name = bytes.windows(2).rposition(|pair| pair == b"b\0").unwrap();
        let name_size =
            u32::from_str_radix(str::from_utf8(&bytes[name - 16..name - 8]).unwrap(), 16);
        let name_size = name_size.unwrap() as usize;
        assert!(name_size <= LONGEST_NAME);
        assert!(at % PAGE == 0 || name_size == 2, "{length}: {at}");
        assert_eq!(at, (name + name_size).next_multiple_of(4));
        assert_eq!(bytes[name + 1..at], vec![0; at - name - 1]);
    }
}

fn sample() -> Archive {
    let mut archive = Archive::default();
    // Added in an order that is not the archive's.
    archive
        .add(
            "init",
            Entry::File {
                mode: 0o755,
                content: vec![b'x'; 5000],
            },
        )
        .unwrap();
    archive
        .add(
            "dev/console",
            Entry::CharacterDevice {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        )
        .unwrap();
    archive
        .add("dev", Entry::Directory { mode: 0o755 })
        .unwrap();
    archive
}

#[test]
fn headers_are_laid_out_as_the_kernel_reads_them() {
    let bytes = sample().to_bytes().unwrap();
    let first = "070701\
        00000001000041ed0000000000000000\
        00000002000000000000000000000000\
        00000000000000000000000000000004\
        00000000dev\0";
    assert_eq!(&bytes[..114], first.as_bytes());
    // The header and "dev\0" are 114 bytes; the next header starts at a multiple of four.
    assert_eq!(&bytes[114..122], b"\x00\x00070701");
    assert_eq!(bytes.len() % 512, 0);
}

#[test]
fn cpio_lists_what_was_put_in() {
    let mut child = match Command::new("cpio")
        .args(["-itv", "--numeric-uid-gid", "--quiet"])
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: the program cpio is not installed");
            return;
        }
        Err(error) => panic!("cannot run cpio: {error}"),
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&sample().to_bytes().unwrap())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines: Vec<Vec<String>> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(
        lines,
        [
            ["drwxr-xr-x", "2", "0", "0", "0", "Jan", "1", "1970", "dev"].as_slice(),
            &[
                "crw-------",
                "1",
                "0",
                "0",
                "5,",
                "1",
                "Jan",
                "1",
                "1970",
                "dev/console"
            ],
            &[
                "-rwxr-xr-x",
                "1",
                "0",
                "0",
                "5000",
                "Jan",
                "1",
                "1970",
                "init"
            ],
        ]
    );
}

#[test]
fn the_order_of_adding_does_not_show() {
    let mut other = Archive::default();
    for (name, entry) in sample().entries {
        other.add(&name, entry).unwrap();
    }
    assert_eq!(other.to_bytes(), sample().to_bytes());
}

#[test]
fn names_that_would_escape_or_break_the_listing_are_refused() {
    for name in ["", "/init", "a//b", "./a", "a/../b", "a/", "a\0", "a\nb"] {
        assert_eq!(
            Archive::default().add(name, Entry::Directory { mode: 0o755 }),
            Err(ArchiveError::Name(name.to_owned()))
        );
    }
}

#[test]
fn a_file_outside_any_folder_of_the_archive_is_refused() {
    let mut archive = Archive::default();
    archive.add("a", Entry::Directory { mode: 0o755 }).unwrap();
    archive
        .add("a/b/c", Entry::Directory { mode: 0o755 })
        .unwrap();
    assert_eq!(
        archive.to_bytes(),
        Err(ArchiveError::NoFolder {
            name: "a/b/c".to_owned(),
            folder: "a/b".to_owned()
        })
    );
}
