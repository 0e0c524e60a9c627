//! A fuzz target: FUSE requests that no kernel sends, through queues that no driver makes.
//!
//! The server is the one of the program, on a thread of its own that is locked in as the program is:
//! mounts, root directory and capabilities belong to threads. Only the filter of system calls is left
//! out, which would not let the thread end. Where the program would end with a sentence, the target
//! looks at the sentence and starts another server on the same directory.

mod driver;
mod request;
#[path = "../../tests/guest/shared.rs"]
mod shared;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use caisson_fuzz::{Played, Random, run};
use rustix::fs::{Mode, OFlags, RawDir, XattrFlags};

use self::driver::{Driver, Outcome};
use self::request::{ANSWERED, CARRIED_OUT, Known, Request};
use self::shared::Shared;
use super::{ANSWER_HEADER, DeviceError, UNANSWERED};
use crate::ring::RingError;

/// Requests of a round.
const STEPS: u64 = 120;
/// What `cargo test` plays.
const ROUNDS: u64 = 120;
/// After how many of them descriptors are counted.
const COUNTED: u64 = 20;
/// How many files the guest may have open and know; it tries for more.
const GUEST_FILES: u64 = 48;
/// Descriptors of the server itself, and of other tests of this process.
const OTHER_FILES: usize = 64;

/// What the thread that is locked in needs of the one that is not.
enum Outside {
    /// Makes the directory new.
    Prepare,
    /// Makes sure that nothing beside it has changed.
    Check,
}

#[test]
fn files() {
    let Some(shared) = Shared::new() else { return };
    let directory = shared.open();
    let (asked, ask) = channel();
    let (done, is_done) = channel();
    let outside = &shared;
    let (played, carried_out) = std::thread::scope(move |scope| {
        let server = scope.spawn(move || locked_in(directory, &asked, &is_done));
        while let Ok(what) = ask.recv() {
            match what {
                Outside::Prepare => prepare(outside.path()),
                Outside::Check => assert!(outside.surroundings_are_untouched()),
            }
            done.send(()).unwrap();
        }
        server.join().unwrap()
    });
    if played.fixed {
        let missing = |operation: &u32| !carried_out.contains(operation);
        let missing: Vec<_> = CARRIED_OUT.into_iter().filter(missing).collect();
        assert!(missing.is_empty(), "never carried out: {missing:?}");
    }
}

/// Plays the rounds; gives the operations that were carried out without an error.
fn locked_in(
    directory: OwnedFd,
    ask: &Sender<Outside>,
    done: &Receiver<()>,
) -> (Played, BTreeSet<u32>) {
    let own_descriptors = crate::confinement::enter(directory).unwrap();
    crate::confinement::drop_privileges().unwrap();
    // Or else the guest would have this machine.
    assert_eq!(fs::read_dir("/").unwrap().count(), 0);
    let outside = |what| {
        ask.send(what).unwrap();
        done.recv().unwrap();
    };
    let mut carried_out = BTreeSet::new();
    let most = count(&own_descriptors) + GUEST_FILES as usize + OTHER_FILES;
    let played = run("files", ROUNDS, |random| {
        outside(Outside::Prepare);
        let mut guest = Guest::new(random, &own_descriptors);
        for step in 0..STEPS {
            random.step();
            guest.step(random, &own_descriptors);
            if step % COUNTED == 0 {
                let open = count(&own_descriptors);
                assert!(open < most, "{open} descriptors");
            }
        }
        let unharmed = guest.ask(random, &Known::plain(), [0, 0]);
        assert!(unharmed.is_some(), "a plain request ended the server");
        carried_out.append(&mut guest.carried_out);
        outside(Outside::Check);
    });
    (played, carried_out)
}

/// The directory as each round finds it: what the guest may keep, and what it may not.
fn prepare(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::chown(
        path,
        Some(rustix::fs::Uid::ROOT),
        Some(rustix::fs::Gid::ROOT),
    )
    .unwrap();
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    for name in names[..length].split(|byte| *byte == 0) {
        if !name.is_empty() {
            rustix::fs::removexattr(path, name).unwrap();
        }
    }
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for directory in ["directory/inner", "pod/rootfs/directory", ".volumes"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    for file in ["file", "directory/file", "pod/private", "pod/rootfs/file"] {
        fs::write(path.join(file), "content").unwrap();
    }
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(path.join("file"), "user.a", b"value", flags).unwrap();
    std::os::unix::fs::symlink("../outside", path.join("link")).unwrap();
}

/// The descriptors of this process.
fn count(own_descriptors: &File) -> usize {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(own_descriptors, ".", flags, Mode::empty()).unwrap();
    let mut buffer = Vec::with_capacity(1 << 14);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut count = 0;
    while entries.next().is_some() {
        count += 1;
    }
    count
}

/// The guest, with the server that it has now.
struct Guest {
    driver: Driver,
    known: Known,
    carried_out: BTreeSet<u32>,
}

impl Guest {
    fn new(random: &mut Random, own_descriptors: &File) -> Self {
        let mut guest = Self {
            driver: serve(own_descriptors),
            known: Known::new(),
            carried_out: BTreeSet::new(),
        };
        guest.greet(random);
        guest
    }

    /// Another server, for a guest that goes on with what it had.
    fn restart(&mut self, random: &mut Random, own_descriptors: &File) {
        self.driver = serve(own_descriptors);
        self.greet(random);
    }

    fn greet(&mut self, random: &mut Random) {
        if !random.one_in(16) {
            let answered = self.ask(random, &Known::init(), [0, 0]);
            assert!(answered.is_some(), "FUSE_INIT ended the server");
        }
    }

    fn step(&mut self, random: &mut Random, own_descriptors: &File) {
        let user = random.pick(&[[0, 0], [0, 0], [1234, 1234], [0, 5], [u32::MAX, 7]]);
        let request = self.known.request(random);
        let went_on = if random.one_in(16) {
            self.forge(random, &request, user)
        } else {
            self.ask(random, &request, user)
        };
        if went_on.is_none() {
            self.restart(random, own_descriptors);
        }
    }

    /// Asks as a driver does. `None` when the server has ended.
    fn ask(&mut self, random: &mut Random, request: &Request, user: [u32; 2]) -> Option<()> {
        let (bytes, unique) = self.known.bytes(user, request);
        let room = random.pick(&[4096, 4112, 4112, 70_000]);
        let queue = usize::from(!random.one_in(8));
        let outcome = self.driver.exchange(random, (queue, false), &bytes, room);
        let outcome = went_on(outcome);
        let what = request.operation;
        assert!(
            outcome.is_some() || !ANSWERED.contains(&what),
            "operation {what} ended the server: {:?}",
            request.body
        );
        let Outcome::Used(answer) = outcome? else {
            return Some(());
        };
        if UNANSWERED.contains(&request.operation) || answer.is_empty() {
            return Some(());
        }
        let (header, content) = answer.split_at(ANSWER_HEADER);
        assert_eq!(header[..4], (answer.len() as u32).to_le_bytes());
        assert_eq!(header[8..], unique.to_le_bytes());
        let error = i32::from_le_bytes(header[4..8].try_into().unwrap());
        assert!((-4095..=0).contains(&error), "error {error}");
        if error == 0 {
            self.carried_out.insert(request.operation);
            self.known.learn(request, content);
        } else {
            assert!(content.is_empty(), "an error and {} bytes", content.len());
        }
        Some(())
    }

    /// Asks as no driver does. `None` when the server has ended.
    fn forge(&mut self, random: &mut Random, request: &Request, user: [u32; 2]) -> Option<()> {
        let (mut bytes, _) = self.known.bytes(user, request);
        let mut room = 4096;
        let mut broken = false;
        match random.below(6) {
            0 => bytes.truncate(1 + random.index(bytes.len())),
            1 => {
                let more = random.pick(&[1, 8, 100, 5000]);
                bytes.extend(random.bytes(more));
            }
            2 => bytes[..4].copy_from_slice(&(random.number() as u32).to_le_bytes()),
            3 => {
                let at = random.index(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            4 => room = random.pick(&[0, 1, 15, 16, 17, 40, 100, 144, 160]),
            _ => broken = true,
        }
        let outcome = self.driver.exchange(random, (1, broken), &bytes, room);
        went_on(outcome).map(drop)
    }
}

fn serve(own_descriptors: &File) -> Driver {
    let own_descriptors = own_descriptors.try_clone().unwrap();
    let open_files = GUEST_FILES + crate::file_system::RESERVED;
    Driver::new(crate::file_system::open(own_descriptors, open_files).unwrap())
}

/// `None` when the server has ended, which it does with a sentence.
fn went_on(outcome: Result<Outcome, RingError>) -> Option<Outcome> {
    match outcome {
        Ok(outcome) => Some(outcome),
        Err(source) => {
            let said = DeviceError::Ring { index: 1, source }.to_string();
            assert!(!said.contains(char::is_control), "{said:?}");
            assert!(said.len() < 300, "{said}");
            None
        }
    }
}
