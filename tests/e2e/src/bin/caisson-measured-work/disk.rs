//! One large file, in order and here and there.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountFlags, mount as mount_at};

use crate::rows::{Rows, random};

const SIZE: usize = 32 << 20;
const BLOCK: usize = 256 << 10;
const SMALL: usize = 4 << 10;
const READS: usize = 1000;
const WRITES: usize = 500;
const SYNCS: usize = 50;

pub(crate) fn work(rows: &Rows, folder: &Path) {
    let path = folder.join("large");
    let mut file = File::options();
    let file = file.read(true).write(true).create(true).truncate(true);
    let mut file = file.open(&path).expect("a file can be made");
    let written = vec![0x5a; BLOCK];
    let write = |file: &mut File| {
        for _ in 0..SIZE / BLOCK {
            file.write_all(&written).expect("there is room");
        }
        file.sync_all().expect("it can be synced");
    };
    let name = "32 MiB written in order, and synced";
    if rows.wants(&[name]) {
        rows.row(name, || write(&mut file));
    } else {
        write(&mut file);
    }
    forget(&file);
    rows.row("32 MiB read in order", || {
        let mut file = File::open(&path).expect("it is there");
        let mut block = vec![0; BLOCK];
        while file.read(&mut block).expect("it can be read") > 0 {}
    });
    forget(&file);
    let mut small = vec![0x5a; SMALL];
    let place = |index: usize| (random(index, SIZE / SMALL) * SMALL) as u64;
    rows.row("1,000 blocks of 4 KiB read here and there", || {
        for index in 0..READS {
            let read = file.read_exact_at(&mut small, place(index));
            read.expect("it can be read");
        }
    });
    rows.row(
        "500 blocks of 4 KiB written here and there, and synced",
        || {
            for index in 0..WRITES {
                let written = file.write_all_at(&small, place(index));
                written.expect("it can be written");
            }
            file.sync_data().expect("it can be synced");
        },
    );
    rows.row("50 blocks of 4 KiB, each synced", || {
        for index in 0..SYNCS {
            let written = file.write_all_at(&small, place(index));
            let synced = written.and_then(|()| file.sync_data());
            synced.expect("it can be synced");
        }
    });
    drop(file);
    fs::remove_file(path).expect("it can be removed");
}

/// Takes what was read or written out of this kernel's cache: what lies in another kernel's stays.
fn forget(file: &File) {
    file.sync_all().expect("it can be synced");
    // gVisor has no such thing.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Mounts a block device with ext4 at `folder`.
pub(crate) fn mount(device: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("a directory can be made");
    let mounted = mount_at(device, folder, "ext4", MountFlags::empty(), None);
    mounted.unwrap_or_else(|error| panic!("{}: {error}", device.display()));
}
