//! What the guest uses without opening it: the handle is 0 then.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use crate::ROOT;
use crate::guest::{Entry, Guest, Server, Shared, mount_tmpfs, serve, terminated};

const NO_HANDLE: u64 = 0;
/// More than are kept open.
const MANY: usize = 150;

/// A container's private root, an overlay with these files in its lower layer; and the guest.
fn private_root(shared: &Shared, files: &[(&str, &str)]) -> (Server, Guest, u64) {
    let layers = shared.path().join("layers");
    fs::create_dir(&layers).unwrap();
    mount_tmpfs(&layers);
    fs::create_dir(layers.join("lower")).unwrap();
    for (name, content) in files {
        fs::write(layers.join("lower").join(name), content).unwrap();
    }
    symlink("file", layers.join("lower/link")).unwrap();
    let container = shared.path().join("web");
    fs::create_dir_all(container.join("rootfs")).unwrap();
    fs::create_dir(container.join("private")).unwrap();
    mount_overlay(&container.join("rootfs"), &layers);
    let (server, mut guest) = serve(shared);
    let web = guest.lookup(ROOT, "web").unwrap();
    let rootfs = guest.lookup(web.node, "rootfs").unwrap();
    (server, guest, rootfs.node)
}

/// An overlay on `path`, of a lower directory and an upper one that are both below `layers`.
fn mount_overlay(path: &Path, layers: &Path) {
    let layer = |name: &str| {
        let layer = layers.join(name);
        fs::create_dir_all(&layer).unwrap();
        format!("{name}dir={}", layer.display())
    };
    let options = ["lower", "upper", "work"].map(layer).join(",");
    let options = CString::new(options).unwrap();
    mount("overlay", path, "overlay", MountFlags::empty(), &*options).unwrap();
}

/// What the names of the files end with that the server has open.
fn open_files(server: &Server, ending: &str) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let names = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    names
        .filter(|name| name.to_string_lossy().ends_with(ending))
        .count()
}

/// The names that READDIR tells from the start of a directory.
fn names(guest: &mut Guest, node: u64) -> Vec<String> {
    let mut body = NO_HANDLE.to_le_bytes().to_vec();
    body.extend(0u64.to_le_bytes());
    body.extend(4096u32.to_le_bytes());
    body.extend([0; 20]);
    let answer = guest.ask(28, node, &body);
    assert_eq!(answer.error, 0);
    let mut names = Vec::new();
    let mut at = 0;
    while at < answer.data.len() {
        let length = answer.u32(at + 16) as usize;
        let name = answer.data.get(at + 24..at + 24 + length).unwrap();
        names.push(String::from_utf8(name.to_vec()).unwrap());
        at += (24 + length).next_multiple_of(8);
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[test]
fn files_and_directories_of_a_private_root_are_read_without_being_opened() {
    let Some(shared) = Shared::new() else { return };
    let (_server, mut guest, rootfs) = private_root(&shared, &[("file", "content")]);
    let file = guest.lookup(rootfs, "file").unwrap();
    assert!(file.no_open);
    assert_eq!(guest.read(file.node, NO_HANDLE), b"content");
    assert_eq!(guest.read(file.node, NO_HANDLE), b"content");
    assert_eq!(names(&mut guest, rootfs), ["file", "link"]);
    // RELEASE, FLUSH and RELEASEDIR of what is not open, as from a kernel that knows no better.
    for opcode in [18, 25, 29] {
        assert_eq!(guest.ask(opcode, file.node, &[0; 24]).error, 0);
    }
    assert_eq!(guest.read(file.node, NO_HANDLE), b"content");
    // The attributes, asked for with the handle.
    assert_eq!(
        guest
            .ask(
                3,
                file.node,
                &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            )
            .error,
        0
    );
    // What else there is in a directory is neither.
    let link = guest.lookup(rootfs, "link").unwrap();
    assert!(!link.no_open);
    // Nor is what others change.
    fs::write(shared.path().join("volume"), "").unwrap();
    assert!(!guest.lookup(ROOT, "volume").unwrap().no_open);
}

#[test]
fn a_directory_that_is_read_again_is_read_as_it_is_then() {
    let Some(shared) = Shared::new() else { return };
    let (_server, mut guest, rootfs) = private_root(&shared, &[]);
    assert_eq!(names(&mut guest, rootfs), ["link"]);
    guest.create(rootfs, "new", 0o644).unwrap();
    assert_eq!(names(&mut guest, rootfs), ["link", "new"]);
    // That a host changes it is no rule of private roots, but it is seen.
    fs::write(shared.path().join("web/rootfs/other"), "").unwrap();
    assert_eq!(names(&mut guest, rootfs), ["link", "new", "other"]);
}

#[test]
fn what_is_created_needs_no_handle_even_when_it_has_no_name_any_more() {
    let Some(shared) = Shared::new() else { return };
    let (server, mut guest, rootfs) = private_root(&shared, &[]);
    let (file, handle) = guest.create(rootfs, "removed", 0).unwrap();
    assert!(file.no_open);
    assert_eq!(handle, NO_HANDLE);
    let first = guest.write_file(file.node, handle, b"first", false);
    assert_eq!(first.error, 0);
    assert_eq!(guest.ask(10, rootfs, &terminated("removed")).error, 0);
    let created: Vec<Entry> = (0..MANY)
        .map(|index| guest.create(rootfs, &format!("{index}"), 0o644).unwrap().0)
        .collect();
    // It was closed meanwhile: so many are not kept open. Each has a descriptor besides, as long as
    // the guest knows it.
    let open = open_files(&server, "/149");
    assert_eq!(open, 2);
    assert_eq!(open_files(&server, "/0"), 1);
    assert_eq!(guest.read(file.node, NO_HANDLE), b"first");
    let then = guest.write_file(file.node, NO_HANDLE, b"then", false);
    assert_eq!(then.error, 0);
    assert_eq!(guest.read(file.node, NO_HANDLE), b"thent");
    for (index, entry) in created.iter().enumerate() {
        let written = guest.write_file(entry.node, NO_HANDLE, b"many", false);
        assert_eq!(written.error, 0);
        let path = shared.path().join(format!("web/rootfs/{index}"));
        assert_eq!(fs::read(path).unwrap(), b"many");
    }
}

#[test]
fn a_file_that_is_written_to_is_read_from_its_new_layer() {
    let Some(shared) = Shared::new() else { return };
    let files = [("written", "lower"), ("cut", "lower")];
    let (_server, mut guest, rootfs) = private_root(&shared, &files);
    let written = guest.lookup(rootfs, "written").unwrap();
    assert_eq!(guest.read(written.node, NO_HANDLE), b"lower");
    let handle = guest.open(written.node, libc::O_WRONLY).unwrap();
    assert_ne!(handle, NO_HANDLE);
    let upper = guest.write_file(written.node, handle, b"upper", false);
    assert_eq!(upper.error, 0);
    assert_eq!(guest.read(written.node, NO_HANDLE), b"upper");

    // SETATTR of the size, by the node.
    let cut = guest.lookup(rootfs, "cut").unwrap();
    assert_eq!(guest.read(cut.node, NO_HANDLE), b"lower");
    let mut body = vec![0; 88];
    body[0] = 1 << 3;
    body[16] = 2;
    assert_eq!(guest.ask(4, cut.node, &body).error, 0);
    assert_eq!(guest.read(cut.node, NO_HANDLE), b"lo");
}

#[test]
fn a_file_that_the_guest_has_removed_and_forgotten_is_closed() {
    let Some(shared) = Shared::new() else { return };
    let (server, mut guest, rootfs) = private_root(&shared, &[("file", "content")]);
    let file = guest.lookup(rootfs, "file").unwrap();
    assert_eq!(guest.read(file.node, NO_HANDLE), b"content");
    assert_eq!(open_files(&server, "/file"), 2);
    assert_eq!(guest.ask(10, rootfs, &terminated("file")).error, 0);
    guest.forget(file.node, 1);
    // Another request, since that has no answer.
    assert_eq!(names(&mut guest, rootfs), ["link"]);
    let all = ["/file", "/file (deleted)"].map(|ending| open_files(&server, ending));
    assert_eq!(all, [0, 0]);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_without_a_handle_too() {
    let Some(shared) = Shared::new() else { return };
    let (_server, mut guest, rootfs) = private_root(&shared, &[]);
    let link = guest.lookup(rootfs, "link").unwrap();
    let mut body = vec![0; 40];
    body[16] = 1;
    // READ and READDIR of a symbolic link, READDIR and READ of what has no node.
    for (opcode, node) in [(15, link.node), (28, link.node), (28, 77), (15, 77)] {
        assert_ne!(guest.ask(opcode, node, &body).error, 0, "{opcode} {node}");
    }
}
