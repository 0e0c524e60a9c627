//! Many small files: a source tree as tar unpacks it and git looks at it, and one as npm makes it.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::rows::{Rows, random};

/// Of the source tree.
const FOLDERS: usize = 30;
const FILES: usize = 10;
const LARGEST: usize = 12 << 10;
/// Of the other one.
const PACKAGES: usize = 60;
const MODULES: usize = 6;
const MODULE: &[u8] = b"module.exports = function () { return 1 }\n";

pub(crate) fn source(rows: &Rows, folder: &Path) {
    let (unpacked, status, read, removed) = (
        "source tree of 300 files, unpacked",
        "source tree, looked at by git status",
        "source tree, all files read",
        "source tree, removed",
    );
    if !rows.wants(&[unpacked, status, read, removed]) {
        return;
    }
    let top = folder.join("source");
    let files: Vec<_> = (0..FOLDERS)
        .flat_map(|index| (0..FILES).map(move |file| (index, file)))
        .map(|(index, file)| top.join(format!("part{index}/module{file}.c")))
        .collect();
    let content = vec![b'x'; LARGEST];
    done(rows, unpacked, || unpack(&top, &files, &content));
    rows.row(status, || {
        // First what the index has, then what it has not.
        for file in &files {
            let _ = fs::symlink_metadata(file).expect("it is there");
        }
        assert_eq!(listed(&top), FOLDERS * (FILES + 1));
    });
    rows.row(read, || {
        for file in &files {
            let _ = fs::read(file).expect("it can be read");
        }
    });
    done(rows, removed, || remove(&top));
}

pub(crate) fn packages(rows: &Rows, folder: &Path) {
    let (created, read, removed) = (
        "360 tiny files in 60 packages, created",
        "tiny files, found and read",
        "tiny files, removed",
    );
    if !rows.wants(&[created, read, removed]) {
        return;
    }
    let top = folder.join("node_modules");
    let package = |index: usize| top.join(format!("package{index}"));
    done(rows, created, || {
        let programs = top.join(".bin");
        fs::create_dir_all(&programs).expect("a directory can be made");
        for index in 0..PACKAGES {
            let lib = package(index).join("lib");
            fs::create_dir_all(&lib).expect("a directory can be made");
            for module in 0..MODULES {
                // A new file takes its name when it is whole.
                let (unfinished, file) = (lib.join(".new"), lib.join(format!("{module}.js")));
                let written = fs::write(&unfinished, MODULE);
                written.expect("there is room");
                fs::rename(&unfinished, &file).expect("it can be renamed");
            }
            let linked = symlink(lib.join("0.js"), programs.join(format!("program{index}")));
            linked.expect("a link can be made");
        }
    });
    rows.row(read, || {
        for index in 0..PACKAGES {
            for module in 0..MODULES {
                // As `require` looks for a module: by several names.
                let lib = package(index).join("lib");
                for name in [format!("{module}"), format!("{module}.json")] {
                    assert!(!lib.join(name).exists());
                }
                let file = lib.join(format!("{module}.js"));
                assert!(file.exists());
                let _ = fs::read(file).expect("it can be read");
            }
        }
    });
    done(rows, removed, || remove(&top));
}

/// Does what the other rows need, measured if it is wanted itself.
fn done(rows: &Rows, name: &str, work: impl FnOnce()) {
    if rows.wants(&[name]) {
        rows.row(name, work);
    } else {
        work();
    }
}

/// As tar does: content, then mode and times.
fn unpack(top: &Path, files: &[PathBuf], content: &[u8]) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    fs::create_dir(top).expect("a directory can be made");
    for (index, path) in files.iter().enumerate() {
        if index % FILES == 0 {
            let folder = path.parent().expect("it lies in one");
            fs::create_dir(folder).expect("a directory can be made");
        }
        let mut file = File::create_new(path).expect("a file can be made");
        let size = random(index, content.len());
        let written = file.write_all(content.get(..size).unwrap_or_default());
        written.expect("there is room");
        let changed = file.set_permissions(Permissions::from_mode(0o644));
        let times = FileTimes::new().set_modified(time).set_accessed(time);
        let changed = changed.and_then(|()| file.set_times(times));
        changed.expect("it is ours");
    }
}

/// How many names there are below a directory.
fn listed(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("it can be listed");
    entries
        .map(|entry| {
            let entry = entry.expect("it can be listed");
            let kind = entry.file_type().expect("it has one");
            1 + match kind.is_dir() {
                true => listed(&entry.path()),
                false => 0,
            }
        })
        .sum()
}

fn remove(top: &Path) {
    fs::remove_dir_all(top).expect("it can be removed");
}
