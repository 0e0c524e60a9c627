//! What the guest may keep of its containers' root file systems.

use std::fs;

use crate::ROOT;
use crate::guest::{Guest, Shared, mount_tmpfs, serve, terminated};

/// As the mark of the shim has it: a day.
const LONG: u64 = 24 * 60 * 60;
const SHORT: u64 = 1;

/// A container's directory with a mount at `rootfs`, marked or not; and the guest.
fn container(shared: &Shared, name: &str, is_marked: bool) {
    let directory = shared.path().join(name);
    fs::create_dir_all(directory.join("rootfs")).unwrap();
    if is_marked {
        fs::create_dir(directory.join("private")).unwrap();
    }
    mount_tmpfs(&directory.join("rootfs"));
    fs::create_dir(directory.join("rootfs/etc")).unwrap();
    fs::write(directory.join("rootfs/etc/file"), "content").unwrap();
}

/// FOPEN_KEEP_CACHE and FOPEN_NOFLUSH.
const KEEP_CACHE: u32 = 1 << 1;
const NO_FLUSH: u32 = 1 << 5;

/// The flags with which the guest is told to use a file that it opens to read or write.
fn open_flags(guest: &mut Guest, node: u64, access: i32) -> u32 {
    let [a, b, c, d] = access.to_ne_bytes();
    let answer = guest.ask(14, node, &[a, b, c, d, 0, 0, 0, 0]);
    assert_eq!(answer.error, 0);
    answer.u32(8)
}

#[test]
fn a_private_root_may_be_kept_and_is_served_as_any_other() {
    let Some(shared) = Shared::new() else { return };
    container(&shared, "web", true);
    let (_server, mut guest) = serve(&shared);
    let web = guest.lookup(ROOT, "web").unwrap();
    assert_eq!(web.valid, SHORT);
    let rootfs = guest.lookup(web.node, "rootfs").unwrap();
    assert!(rootfs.submount);
    assert_eq!(rootfs.valid, LONG);
    let etc = guest.lookup(rootfs.node, "etc").unwrap();
    let file = guest.lookup(etc.node, "file").unwrap();
    assert_eq!(file.valid, LONG);
    for access in [libc::O_RDONLY, libc::O_RDWR] {
        let flags = open_flags(&mut guest, file.node, access);
        assert_eq!(flags, KEEP_CACHE | NO_FLUSH);
    }
    let handle = guest.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(file.node, handle), b"content");
    // What is made is kept as well, and so is that a name is not there.
    let (new, handle) = guest.create(etc.node, "new", 0o644).unwrap();
    assert_eq!(new.valid, LONG);
    assert_eq!(guest.write_file(new.node, handle, b"new", false).error, 0);
    let made = shared.path().join("web/rootfs/etc/new");
    assert_eq!(fs::read(made).unwrap(), b"new");
    let absent = guest.ask(1, etc.node, &terminated("absent"));
    assert_eq!((absent.error, absent.u64(0), absent.u64(16)), (0, 0, LONG));
}

#[test]
fn what_the_host_may_change_is_asked_again_after_a_second() {
    let Some(shared) = Shared::new() else { return };
    container(&shared, "web", false);
    container(&shared, "marked", true);
    fs::create_dir_all(shared.path().join("marked/other")).unwrap();
    let (_server, mut guest) = serve(&shared);
    for (name, below) in [("web", "rootfs"), ("marked", "other")] {
        let container = guest.lookup(ROOT, name).unwrap();
        let below = guest.lookup(container.node, below).unwrap();
        assert_eq!(below.valid, SHORT, "{name}");
        assert_eq!(guest.lookup(below.node, "absent"), Err(libc::ENOENT));
    }
    let web = guest.lookup(ROOT, "web").unwrap();
    let rootfs = guest.lookup(web.node, "rootfs").unwrap();
    let etc = guest.lookup(rootfs.node, "etc").unwrap();
    let file = guest.lookup(etc.node, "file").unwrap();
    assert_eq!((etc.valid, file.valid), (SHORT, SHORT));
    for access in [libc::O_WRONLY, libc::O_RDWR] {
        assert_eq!(open_flags(&mut guest, file.node, access), 0);
    }
    // Nothing that was written could be lost.
    assert_eq!(open_flags(&mut guest, file.node, libc::O_RDONLY), NO_FLUSH);
}

#[test]
fn a_mount_inside_a_private_root_is_not_private() {
    let Some(shared) = Shared::new() else { return };
    container(&shared, "web", true);
    mount_tmpfs(&shared.path().join("web/rootfs/etc"));
    fs::write(shared.path().join("web/rootfs/etc/file"), "").unwrap();
    let (_server, mut guest) = serve(&shared);
    let web = guest.lookup(ROOT, "web").unwrap();
    let rootfs = guest.lookup(web.node, "rootfs").unwrap();
    let etc = guest.lookup(rootfs.node, "etc").unwrap();
    assert!(etc.submount);
    let file = guest.lookup(etc.node, "file").unwrap();
    assert_eq!((etc.valid, file.valid), (SHORT, SHORT));
}
