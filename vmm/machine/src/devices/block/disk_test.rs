use super::{Disk, DiskError, power};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

fn file_of(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn open(path: &Path, options: &mut OpenOptions) -> OwnedFd {
    options.open(path).unwrap().into()
}

#[test]
fn a_regular_file_is_a_disk_of_its_size() {
    let file = file_of(4096 * 3);
    let disk = Disk::new(file.reopen().unwrap().into(), false, false).unwrap();
    assert_eq!(
        (disk.geometry().bytes, disk.geometry().block_size),
        (12288, 512)
    );
    assert!(!disk.geometry().read_only);
    assert!(disk.topology().physical_block >= 512);
}

#[test]
fn a_size_that_is_no_multiple_of_a_sector_is_refused() {
    for bytes in [0, 1, 511, 513, 4095] {
        let error = Disk::new(file_of(bytes).reopen().unwrap().into(), false, false).unwrap_err();
        assert!(
            matches!(error, DiskError::Size { bytes: b, unit: 512 } if b == bytes),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for (file, what) in [
        (File::open(directory.path()).unwrap().into(), "a directory"),
        (
            File::open("/dev/null").unwrap().into(),
            "a character device",
        ),
        (OwnedFd::from(pipe), "a pipe"),
        (socket.into(), "a socket"),
    ] {
        let error = Disk::new(file, true, false).unwrap_err();
        assert!(
            matches!(error, DiskError::Kind(kind) if kind == what),
            "{error}"
        );
    }
}

#[test]
fn the_way_it_is_opened_has_to_fit() {
    let file = file_of(4096);
    let path = file.path();
    let read_only = || open(path, OpenOptions::new().read(true));
    assert!(matches!(
        Disk::new(read_only(), false, false),
        Err(DiskError::Unwritable)
    ));
    assert!(Disk::new(read_only(), true, false).is_ok());
    let write_only = || open(path, OpenOptions::new().write(true));
    for wanted in [true, false] {
        let result = Disk::new(write_only(), wanted, false);
        assert!(matches!(result, Err(DiskError::Unreadable)));
    }
    // Such a file would take every write at its end.
    let append = open(path, OpenOptions::new().read(true).append(true));
    assert!(matches!(
        Disk::new(append, false, false),
        Err(DiskError::Append)
    ));
    // Only a name, through which nothing can be read.
    let name = open(
        path,
        OpenOptions::new().read(true).custom_flags(libc::O_PATH),
    );
    assert!(matches!(
        Disk::new(name, true, false),
        Err(DiskError::Unreadable)
    ));
    assert!(matches!(
        Disk::new(read_only(), true, true),
        Err(DiskError::NotDirect)
    ));
}

#[test]
fn past_the_page_cache_blocks_are_what_the_file_system_wants() {
    let file = file_of(1 << 20);
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let direct = match options.open(file.path()) {
        Ok(direct) => OwnedFd::from(direct),
        Err(error) => return eprintln!("skipped: no O_DIRECT in the temporary directory: {error}"),
    };
    let disk = Disk::new(direct, false, true).unwrap();
    let block = disk.geometry().block_size;
    assert!(
        block.is_power_of_two() && (512..=65536).contains(&block),
        "{block}"
    );
    // A block is read with an aligned buffer and not with one byte less.
    let mut aligned = vec![0; 3 * 65536];
    let start = aligned.as_ptr().align_offset(65536);
    let buffer = &mut aligned[start..start + block as usize];
    let read = std::os::unix::fs::FileExt::read_at(
        disk.files().iter().next().unwrap(),
        buffer,
        u64::from(block),
    );
    assert_eq!(read.unwrap(), block as usize);
}

#[test]
fn odd_block_sizes_are_brought_into_range() {
    assert_eq!(power(0, 512), 512);
    assert_eq!(power(4096, 512), 4096);
    assert_eq!(power(3000, 512), 512);
    assert_eq!(power(1 << 20, 512), 65536);
    assert_eq!(power(512, 4096), 4096);
}
