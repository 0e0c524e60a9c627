//! Requests that no kernel sends. The server answers, or ends as it does after a malformed one: with
//! a sentence. What it never does is take more memory than it has, or leave its directory.

use std::fs;

use super::guest::{Guest, Server, Shared, serve};
use super::{ROOT, longs};

/// Those of FUSE, and some that are none.
fn operations() -> impl Iterator<Item = u32> {
    (0..60).chain([4096, 0x10_0000, u32::MAX])
}

/// Bodies that may be anything: none, too short for all, zeros, ones, and a name.
const BODIES: [&[u8]; 6] = [
    &[],
    &[1],
    &[0; 96],
    &[0xff; 96],
    b"name\0other\0",
    b"no end",
];

/// A server and its guest; another pair when the server has ended.
struct Pair<'a> {
    shared: &'a Shared,
    running: Option<(Server, Guest)>,
    ended: usize,
    answered: usize,
}

impl<'a> Pair<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            running: Some(serve(shared)),
            ended: 0,
            answered: 0,
        }
    }

    /// Lets the guest send something.
    fn send(&mut self, what: &str, send: impl FnOnce(&mut Guest) -> Option<u32>) {
        let (server, mut guest) = self.running.take().unwrap_or_else(|| serve(self.shared));
        if send(&mut guest).is_some() {
            self.answered += 1;
            self.running = Some((server, guest));
            return;
        }
        self.ended += 1;
        let (status, said) = server.wait();
        assert_eq!(status.code(), Some(1), "{what}: {said}");
        let words = "caisson-fs: queue 1: malformed request: ";
        assert!(said.starts_with(words), "{what}: {said}");
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
    }

    /// Makes sure that nothing came of it.
    fn finish(mut self) {
        assert!(self.shared.surroundings_are_untouched());
        assert!(self.ended > 0 && self.answered > 0);
        self.send("a request at last", |guest| {
            guest.lookup(ROOT, "file").map(|_| 0).ok()
        });
    }
}

#[test]
fn whatever_is_asked_it_answers_or_ends_with_a_sentence() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.path().join("file"), "content").unwrap();
    let mut pair = Pair::new(&shared);
    for operation in operations() {
        for node in [ROOT, 0, 0x1234, u64::MAX] {
            for body in BODIES {
                let what = format!("operation {operation} of node {node:#x} with {body:?}");
                pair.send(&what, |guest| guest.send(operation, node, body));
            }
        }
    }
    pair.finish();
}

#[test]
fn without_room_for_an_answer_it_ends_with_a_sentence() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.path().join("file"), "content").unwrap();
    let mut pair = Pair::new(&shared);
    for operation in 0..60 {
        for room in [0, 15, 16] {
            let what = format!("operation {operation} with {room} bytes for its answer");
            pair.send(&what, |guest| {
                guest.room = room;
                let written = guest.send(operation, ROOT, &[0; 96]);
                guest.room = 1 << 20;
                written
            });
        }
    }
    pair.finish();
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.path().join("file"), "content").unwrap();
    let mut pair = Pair::new(&shared);
    let all = u64::from(u32::MAX);
    let name = b"user.name\0".to_vec();
    // 4 GiB to read, write, list, know of attributes, forget and move, by one who has the file open.
    let bodies: Vec<(u32, Vec<u8>)> = vec![
        (15, longs(&[0, 0, all, 0, 0])),
        (16, longs(&[0, 0, all, 0, 0])),
        (16, longs(&[0, u64::MAX, 5, 0, 0])),
        (21, [longs(&[all]), name.clone()].concat()),
        (22, [longs(&[all]), name].concat()),
        (23, longs(&[all])),
        (28, longs(&[0, 0, all, 0, 0])),
        (44, longs(&[0, u64::MAX, all, 0, 0])),
        (39, longs(&[0, u64::MAX, u64::MAX, all << 32 | all])),
        (42, longs(&[all, 1, 1])),
        (43, longs(&[0, 0, u64::MAX, 0])),
        (46, longs(&[0, u64::MAX, 4])),
        (47, longs(&[0, u64::MAX, ROOT, 0, u64::MAX, u64::MAX, 0])),
        (48, longs(&[0, u64::MAX, u64::MAX, 0, u64::MAX])),
    ];
    for (operation, body) in bodies {
        for of in [ROOT, u64::MAX, 0] {
            let what = format!("operation {operation} of {of:#x} with {body:?}");
            pair.send(&what, |guest| {
                let Ok(file) = guest.lookup(ROOT, "file") else {
                    return guest.send(operation, of, &body);
                };
                let handle = guest.open(file.node, libc::O_RDWR).unwrap_or(0);
                // The handle is the first word of most.
                let mut body = body.clone();
                if body.starts_with(&[0; 8]) {
                    body[..8].copy_from_slice(&handle.to_le_bytes());
                }
                let node = if of == 0 { file.node } else { of };
                guest.send(operation, node, &body)
            });
            pair.grew_by_little(&what);
        }
    }
    // A header that says another length than the request has.
    for length in [0, 1, 39, 41, 4096, u32::MAX] {
        let mut request = length.to_le_bytes().to_vec();
        request.extend(3_u32.to_le_bytes());
        request.extend(longs(&[7, ROOT, 0, 0, 0, 0]));
        pair.send(&format!("length {length}"), |guest| {
            guest.send_bytes(&request)
        });
        pair.grew_by_little("a length that lies");
    }
    pair.finish();
}

/// Found by `cargo fuzz`: the library counts on a place that is at most 2^63-1.
#[test]
fn what_is_read_or_written_where_no_file_reaches_is_refused() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.path().join("file"), "content").unwrap();
    let (_server, mut guest) = serve(&shared);
    let file = guest.lookup(ROOT, "file").unwrap();
    let handle = guest.open(file.node, libc::O_RDWR).unwrap();
    for place in [i64::MAX as u64 + 1, u64::MAX] {
        let read = longs(&[handle, place, 100, 0, 0]);
        assert_eq!(guest.ask(15, file.node, &read).error, libc::EINVAL);
        let write = [longs(&[handle, place, 5, 0, 0]), b"hello".to_vec()].concat();
        assert_eq!(guest.ask(16, file.node, &write).error, libc::EINVAL);
    }
    assert_eq!(guest.read(file.node, handle), b"content");
}

impl Pair<'_> {
    /// Makes sure that the server has at no time had the memory that it was told to need.
    fn grew_by_little(&self, what: &str) {
        let Some((server, _)) = &self.running else {
            return;
        };
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        let peak: u64 = peak
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        assert!(peak < 1 << 20, "{what}: {peak} KiB");
    }
}
