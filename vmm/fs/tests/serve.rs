//! The file server as a process, driven by raw FUSE requests over a real queue.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "serve/forged.rs"]
mod forged;
mod guest;
#[path = "serve/kept.rs"]
mod kept;
#[path = "serve/limits.rs"]
mod limits;
#[path = "serve/private.rs"]
mod private;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use guest::{Server, Shared, mount_tmpfs, serve, terminated};

const ROOT: u64 = 1;

#[test]
fn a_file_is_found_and_read() {
    let Some(shared) = Shared::new() else { return };
    fs::create_dir(shared.path().join("directory")).unwrap();
    let content = "content\n".repeat(5000);
    fs::write(shared.path().join("directory/file"), &content).unwrap();
    let (server, mut guest) = serve(&shared);

    let directory = guest.lookup(ROOT, "directory").unwrap();
    let file = guest.lookup(directory.node, "file").unwrap();
    let handle = guest.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(file.node, handle), content.as_bytes());
    assert_eq!(guest.lookup(ROOT, "nothing"), Err(libc::ENOENT));

    drop(guest);
    let (status, said) = server.wait();
    assert!(status.success(), "{status}");
    assert_eq!(said, "");
}

#[test]
fn a_mount_made_after_the_start_is_seen_as_a_file_system_of_its_own() {
    let Some(shared) = Shared::new() else { return };
    let late = shared.path().join("late");
    fs::create_dir(&late).unwrap();
    let (_server, mut guest) = serve(&shared);
    assert!(!guest.lookup(ROOT, "late").unwrap().submount);

    mount_tmpfs(&late);
    fs::write(late.join("file"), "on the new file system").unwrap();
    let directory = guest.lookup(ROOT, "late").unwrap();
    assert!(directory.submount);
    let file = guest.lookup(directory.node, "file").unwrap();
    let handle = guest.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(file.node, handle), b"on the new file system");

    // And it goes as it came.
    rustix::mount::unmount(&late, rustix::mount::UnmountFlags::DETACH).unwrap();
    let directory = guest.lookup(ROOT, "late").unwrap();
    assert!(!directory.submount);
    assert_eq!(guest.lookup(directory.node, "file"), Err(libc::ENOENT));
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let Some(shared) = Shared::new() else { return };
    fs::create_dir_all(shared.path().join("a/b")).unwrap();
    std::os::unix::fs::symlink("/etc", shared.path().join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../..", shared.path().join("upwards")).unwrap();
    let (_server, mut guest) = serve(&shared);

    // A name with a way in it is walked, but only ever inside: absolute means from the directory
    // looked in or from the root of what is served, and `..` ends there.
    for name in [
        "../outside",
        "/outside",
        "/../outside",
        "a/../../outside",
        "a/b/../../../outside",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "absolute/passwd",
        "upwards/etc/passwd",
        "upwards/outside",
    ] {
        for directory in [ROOT, guest.lookup(ROOT, "a").unwrap().node] {
            let found = guest.lookup(directory, name);
            assert!(found.is_err(), "{name}: {found:?}");
        }
    }
    for name in ["..", "/..", "a/../.."] {
        if let Ok(parent) = guest.lookup(ROOT, name) {
            assert_eq!(
                parent.inode,
                guest.lookup(ROOT, ".").unwrap().inode,
                "{name}"
            );
        }
    }
    // What is made by such names is made inside, or not at all.
    for name in [
        "../made",
        "/made",
        "a/../../made",
        "upwards/made",
        "absolute/made",
        "../outside",
    ] {
        let _ = guest.create(ROOT, name, 0o644);
        guest.ask(6, ROOT, &[terminated(name), terminated("/")].concat());
        let mut mkdir = 0o755u32.to_le_bytes().to_vec();
        mkdir.extend([0; 4]);
        mkdir.extend(terminated(name));
        guest.ask(9, ROOT, &mkdir);
        guest.ask(10, ROOT, &terminated(name));
        let mut rename = ROOT.to_le_bytes().to_vec();
        rename.extend([terminated("a"), terminated(name)].concat());
        guest.ask(12, ROOT, &rename);
        let mut rename = ROOT.to_le_bytes().to_vec();
        rename.extend([terminated(name), terminated("a")].concat());
        guest.ask(12, ROOT, &rename);
        assert!(shared.surroundings_are_untouched(), "{name}");
    }
    assert!(!fs::exists("/made").unwrap() && !fs::exists("/etc/made").unwrap());
    // Symbolic links are for the guest to follow: here they are neither opened nor walked.
    for name in ["absolute", "upwards"] {
        let link = guest.lookup(ROOT, name).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert!(guest.open(link.node, libc::O_RDONLY).is_err());
        assert!(guest.lookup(link.node, "passwd").is_err());
    }
}

#[test]
fn files_belong_to_whom_the_guest_says() {
    let Some(shared) = Shared::new() else { return };
    let mode = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(shared.path(), mode).unwrap();
    let (_server, mut guest) = serve(&shared);
    guest.user = 1234;
    let (entry, handle) = guest.create(ROOT, "theirs", 0o666).unwrap();
    assert_eq!(
        guest.write_file(entry.node, handle, b"text", false).error,
        0
    );
    let metadata = fs::metadata(shared.path().join("theirs")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 1234));
    // The umask was the guest's to apply.
    assert_eq!(metadata.mode() & 0o7777, 0o666);
    assert_eq!(fs::read(shared.path().join("theirs")).unwrap(), b"text");

    // Somebody else writes to a set-user-id program.
    let program = shared.path().join("program");
    fs::write(&program, "old").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6777)).unwrap();
    let entry = guest.lookup(ROOT, "program").unwrap();
    let handle = guest.open(entry.node, libc::O_RDWR).unwrap();
    assert_eq!(guest.write_file(entry.node, handle, b"new", true).error, 0);
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o6000, 0);
    assert_eq!(fs::read(&program).unwrap(), b"new");
}

#[test]
fn extended_attributes_and_device_nodes_pass_through() {
    let Some(shared) = Shared::new() else { return };
    let file = shared.path().join("file");
    fs::write(&file, "").unwrap();
    let (_server, mut guest) = serve(&shared);
    let entry = guest.lookup(ROOT, "file").unwrap();
    // A file capability: cap_net_raw=ep, as in `ping` of many images.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut body = (capability.len() as u32).to_le_bytes().to_vec();
    body.extend([0; 4]);
    // With FUSE_SETXATTR_EXT there are two more fields.
    body.extend([0; 8]);
    body.extend(terminated("security.capability"));
    body.extend(capability);
    assert_eq!(guest.ask(21, entry.node, &body).error, 0);
    let mut seen = [0; 64];
    let length = rustix::fs::getxattr(&file, "security.capability", &mut seen).unwrap();
    assert_eq!(&seen[..length], capability);

    // MKNOD of /dev/null.
    let mut body = Vec::new();
    for value in [libc::S_IFCHR | 0o666, 1 << 8 | 3, 0, 0] {
        body.extend(value.to_le_bytes());
    }
    body.extend(terminated("null"));
    assert_eq!(guest.ask(8, ROOT, &body).error, 0);
    let metadata = fs::metadata(shared.path().join("null")).unwrap();
    assert_eq!(
        (metadata.mode() & libc::S_IFMT, metadata.rdev()),
        (libc::S_IFCHR, 0x103)
    );
}

/// The guest has its own devices, and pipes and sockets are between its own processes: what the
/// host would open of these could be anything, and a FIFO would hold up the one that opens it.
#[test]
fn nodes_fifos_and_sockets_are_not_opened() {
    let Some(shared) = Shared::new() else { return };
    let (_server, mut guest) = serve(&shared);
    for (name, kind, device) in [
        ("null", libc::S_IFCHR, 1 << 8 | 3),
        ("disk", libc::S_IFBLK, 7 << 8),
        ("fifo", libc::S_IFIFO, 0),
        ("socket", libc::S_IFSOCK, 0),
    ] {
        let mut body = Vec::new();
        for value in [kind | 0o666, device, 0, 0] {
            body.extend(value.to_le_bytes());
        }
        body.extend(terminated(name));
        assert_eq!(guest.ask(8, ROOT, &body).error, 0, "{name}");
        let node = guest.lookup(ROOT, name).unwrap().node;
        for flags in [
            libc::O_RDONLY,
            libc::O_WRONLY,
            libc::O_RDWR | libc::O_NONBLOCK,
        ] {
            assert!(guest.open(node, flags).is_err(), "{name} with {flags:#o}");
        }
    }
}

/// The count of lookups is the guest's word.
#[test]
fn forgetting_more_than_was_looked_up_hurts_nobody() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.path().join("file"), "content").unwrap();
    let (_server, mut guest) = serve(&shared);
    let file = guest.lookup(ROOT, "file").unwrap();
    let handle = guest.open(file.node, libc::O_RDONLY).unwrap();
    for node in [file.node, file.node, 12345, u64::MAX] {
        guest.forget(node, u64::MAX);
    }
    assert_eq!(guest.open(file.node, libc::O_RDONLY), Err(libc::EBADF));
    assert_eq!(guest.read(file.node, handle), b"content");
    assert!(guest.lookup(ROOT, "file").is_ok());
    // A guest without a root has only itself to blame, and is answered.
    guest.forget(ROOT, u64::MAX);
    assert_eq!(guest.lookup(ROOT, "file"), Err(libc::EBADF));
    assert_eq!(guest.read(file.node, handle), b"content");
}

/// Little-endian bytes of 64-bit numbers.
fn longs(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn every_operation_works_after_the_program_has_locked_itself_in() {
    let Some(shared) = Shared::new() else { return };
    let (_server, mut guest) = serve(&shared);
    let mut ask = |what: &str, opcode: u32, node: u64, body: &[u8]| {
        let answer = guest.ask(opcode, node, body);
        assert_eq!(answer.error, 0, "{what}");
        answer
    };
    let name = terminated;
    let mode = |mode: u64| longs(&[mode]);
    let directory = ask("mkdir", 9, ROOT, &[mode(0o755), name("directory")].concat()).u64(0);
    let create = [longs(&[libc::O_RDWR as u64 | 0o644 << 32, 0]), name("file")].concat();
    let created = ask("create", 35, directory, &create);
    let (file, handle) = (created.u64(0), created.u64(128));
    let write = [longs(&[handle, 0, 5, 0, 0]), b"hello".to_vec()].concat();
    ask("write", 16, file, &write);
    ask("flush", 25, file, &longs(&[handle, 0, 0]));
    ask("fsync", 20, file, &longs(&[handle, 0]));
    ask("fdatasync", 20, file, &longs(&[handle, 1]));
    ask("fallocate", 43, file, &longs(&[handle, 0, 8192, 0]));
    assert_eq!(ask("lseek", 46, file, &longs(&[handle, 0, 3])).u64(0), 0);
    assert_eq!(ask("getattr", 3, file, &longs(&[0, 0])).u64(16 + 8), 8192);
    // Mode, owner, group, size and times.
    let mut attributes = longs(&[0x3f, 0, 3, 0, 1000, 2000, 0]);
    for value in [0u32, 0, 0, 0o600, 0, 1234, 1234, 0] {
        attributes.extend(value.to_le_bytes());
    }
    ask("setattr", 4, file, &attributes);
    let metadata = fs::metadata(shared.path().join("directory/file")).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.len(), metadata.mtime()),
        (1234, 3, 2000)
    );
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    let attribute = [longs(&[5, 0]), name("user.key"), b"value".to_vec()].concat();
    ask("setxattr", 21, file, &attribute);
    let size = |size: u64| longs(&[size]);
    let got = ask(
        "getxattr",
        22,
        file,
        &[size(100), name("user.key")].concat(),
    );
    assert_eq!(got.data, b"value");
    assert_eq!(ask("listxattr", 23, file, &size(100)).data, b"user.key\0");
    ask("removexattr", 24, file, &name("user.key"));
    let other = ask(
        "create",
        35,
        directory,
        &[create[..16].to_vec(), name("other")].concat(),
    );
    let copy = longs(&[handle, 0, other.u64(0), other.u64(128), 0, 3, 0]);
    assert_eq!(ask("copy_file_range", 47, file, &copy).u32(0), 3);
    assert_eq!(
        fs::read(shared.path().join("directory/other")).unwrap(),
        b"hel"
    );
    ask("release", 18, file, &longs(&[handle, 0, 0]));
    ask(
        "link",
        13,
        directory,
        &[longs(&[file]), name("link")].concat(),
    );
    let symlink = ask(
        "symlink",
        6,
        directory,
        &[name("symlink"), name("file")].concat(),
    );
    assert_eq!(ask("readlink", 5, symlink.u64(0), &[]).data, b"file");
    ask(
        "mknod",
        8,
        directory,
        &[longs(&[(libc::S_IFIFO | 0o600).into(), 0]), name("fifo")].concat(),
    );
    ask("access", 34, file, &longs(&[4]));
    let handle = ask("opendir", 27, directory, &longs(&[0])).u64(0);
    let read = longs(&[handle, 0, 4096, 0, 0]);
    for opcode in [28, 44] {
        let entries = ask("readdir", opcode, directory, &read).data;
        for entry in ["file", "other", "link", "symlink", "fifo"] {
            let found = entries
                .windows(entry.len())
                .any(|window| window == entry.as_bytes());
            assert!(found, "{entry}");
        }
    }
    ask("fsyncdir", 30, directory, &longs(&[handle, 0]));
    ask("releasedir", 29, directory, &longs(&[handle, 0, 0]));
    ask("statfs", 17, ROOT, &[]);
    ask("syncfs", 50, ROOT, &longs(&[0]));
    ask(
        "rename",
        12,
        directory,
        &[longs(&[directory]), name("link"), name("renamed")].concat(),
    );
    let exchange = [longs(&[directory, 2]), name("renamed"), name("other")].concat();
    ask("exchange", 45, directory, &exchange);
    for entry in ["file", "other", "renamed", "symlink", "fifo"] {
        ask("unlink", 10, directory, &name(entry));
    }
    ask("rmdir", 11, ROOT, &name("directory"));
    assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 0);
}

#[test]
fn it_has_locked_itself_in() {
    let Some(shared) = Shared::new() else { return };
    let (server, _guest) = serve(&shared);
    let process = format!("/proc/{}", server.pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP.
    let kept = format!(
        "{:016x}",
        1u64 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27 | 1 << 31
    );
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(set), kept, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    // A filter of system calls.
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("Umask:"), "0000");
    assert_eq!(field("Threads:"), "1");
    assert_eq!(
        status
            .lines()
            .find(|line| line.starts_with("Groups:"))
            .unwrap()
            .trim_end(),
        "Groups:"
    );

    // The directory is all there is, and it has no way to mount or to send.
    let mounts = fs::read_to_string(format!("{process}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / "), "{mounts}");
    for namespace in ["mnt", "net", "ipc", "uts"] {
        let theirs = fs::read_link(format!("{process}/ns/{namespace}")).unwrap();
        let ours = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(theirs, ours, "{namespace}");
    }
    // Of the machine's directories it holds none.
    for entry in fs::read_dir(format!("{process}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_string_lossy().into_owned();
        assert!(
            !target.starts_with("/home") && !target.starts_with("/root") && target != "/proc",
            "{target}"
        );
    }
}

#[test]
fn a_stopped_queue_says_where_it_stands_and_goes_on_from_there() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.path().join("file"), "x").unwrap();
    let (_server, mut guest) = serve(&shared);
    for _ in 0..10 {
        guest.lookup(ROOT, "file").unwrap();
    }
    // INIT was the first.
    assert_eq!(guest.stop_queue(1), 11);
    guest.start_queue(1);
    guest.lookup(ROOT, "file").unwrap();
    assert_eq!(guest.stop_queue(1), 12);
}

#[test]
fn a_malformed_request_ends_it_with_a_sentence() {
    let Some(shared) = Shared::new() else { return };
    let (server, mut guest) = serve(&shared);
    // Shorter than any header.
    assert_eq!(guest.exchange(8), None);
    let (status, said) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(
        said.starts_with("caisson-fs: queue 1: malformed request: "),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn it_ends_quietly_when_nobody_ever_speaks() {
    let Some(shared) = Shared::new() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::start(&[Some(theirs.into()), Some(shared.open())]);
    drop(ours);
    let (status, said) = server.wait();
    assert!(status.success(), "{said}");
}

#[test]
fn it_says_what_it_was_started_without() {
    let Some(shared) = Shared::new() else { return };
    let socket = || -> Option<OwnedFd> { Some(UnixStream::pair().unwrap().0.into()) };
    let file = || -> Option<OwnedFd> { Some(fs::File::open("/dev/null").unwrap().into()) };
    for (descriptors, expected) in [
        ([None, Some(shared.open())], "descriptor 3 is not open"),
        ([socket(), None], "descriptor 4 is not open"),
        ([file(), Some(shared.open())], "descriptor 3 is no socket"),
        ([socket(), file()], "descriptor 4 is no directory"),
    ] {
        let (status, said) = Server::start(&descriptors).wait();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}
