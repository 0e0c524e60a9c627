//! A guest that wants all descriptors there are: each file that it knows is one, and each that it has
//! open is another.

use std::fs;
use std::os::unix::net::UnixStream;

use super::ROOT;
use super::guest::{Guest, Server, Shared};

/// What the server may open, of which it keeps 128 for itself.
const DESCRIPTORS: u64 = 300;
const FOR_GUEST: usize = 300 - 128;

/// RELEASE of an open file.
fn release(guest: &mut Guest, node: u64, handle: u64) {
    let mut body = handle.to_le_bytes().to_vec();
    body.extend([0; 16]);
    assert_eq!(guest.ask(18, node, &body).error, 0);
}

#[test]
fn a_guest_that_wants_every_descriptor_is_refused_and_gets_them_again_when_it_gives_some_back() {
    let Some(shared) = Shared::new() else { return };
    for number in 0..400 {
        fs::write(shared.path().join(format!("file{number}")), "content").unwrap();
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let descriptors = [Some(theirs.into()), Some(shared.open())];
    let server = Server::start_limited(&descriptors, DESCRIPTORS);
    let mut guest = Guest::connect(ours);
    guest.init();

    // By names alone.
    let mut known = Vec::new();
    let refused = (0..400).find_map(|number| {
        let found = guest.lookup(ROOT, &format!("file{number}"));
        found.map(|file| known.push(file.node)).err()
    });
    assert_eq!(refused, Some(libc::ENFILE));
    assert!(
        (FOR_GUEST - 8..=FOR_GUEST).contains(&known.len()),
        "{}",
        known.len()
    );
    let [first, second, third] = known[..3] else {
        unreachable!()
    };
    assert_eq!(guest.open(first, libc::O_RDONLY), Err(libc::ENFILE));
    // What it knows already can be looked up, and what is not there is not there.
    assert_eq!(guest.lookup(ROOT, "file0").unwrap().node, first);
    assert_eq!(guest.lookup(ROOT, "nothing"), Err(libc::ENOENT));
    let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    assert!(files.count() as u64 <= DESCRIPTORS);

    // By open files: as many as it forgets, one for each.
    guest.forget(second, 1);
    let handle = guest.open(first, libc::O_RDONLY).unwrap();
    assert_eq!(guest.open(first, libc::O_RDONLY), Err(libc::ENFILE));
    assert_eq!(guest.create(ROOT, "new", 0o644).err(), Some(libc::ENFILE));
    assert_eq!(guest.read(first, handle), b"content");
    release(&mut guest, first, handle);
    assert!(guest.lookup(ROOT, "file1").is_ok());
    assert_eq!(guest.lookup(ROOT, "file399"), Err(libc::ENFILE));
    guest.forget(third, 1);
    assert!(guest.lookup(ROOT, "file399").is_ok());

    drop(guest);
    let (status, said) = server.wait();
    assert!(status.success(), "{status}: {said}");
}
