use std::fs::File;

use rustix::io::Errno;

use super::make;

#[test]
fn the_file_is_empty_nameless_and_has_room_for_the_guest() {
    let file = match make(64) {
        Ok(file) => File::from(file),
        Err(error @ (Errno::PERM | Errno::NOSYS | Errno::INVAL)) => {
            eprintln!("skipped: cannot make a tmpfs with huge pages: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), 0);
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&metadata), 0);
    file.set_len(64 << 20).unwrap();
    let space = rustix::fs::fstatfs(&file).unwrap();
    assert_eq!(space.f_blocks * space.f_bsize as u64, 64 << 20);
}
