use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};

use super::{Identity, release_dead};
use crate::config::Ids;

fn ids(count: u32) -> Ids {
    Ids {
        first: 70_000,
        count,
    }
}

fn number(identity: &Identity) -> u32 {
    let text = fs::read_to_string(&identity.path).unwrap();
    assert!(identity.path.ends_with(text.trim_end()));
    text.trim_end().parse().unwrap()
}

fn state_dir(root: &Path) -> PathBuf {
    root.join("namespace/pod")
}

#[test]
fn each_has_a_number_of_its_own_until_there_are_none_left() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let state_dir = state_dir(&root);
    let taken: Vec<_> = (0..3)
        .map(|_| Identity::take(&state_dir, ids(3)).unwrap())
        .collect();
    let numbers: BTreeSet<_> = taken.iter().map(number).collect();
    assert_eq!(numbers, BTreeSet::from([70_000, 70_001, 70_002]));
    let error = Identity::take(&state_dir, ids(3)).unwrap_err().to_string();
    for word in ["3", "70000", "`jail.ids`"] {
        assert!(error.contains(word), "{word} in {error}");
    }

    taken.into_iter().for_each(Identity::give_back);
    assert!(!root.exists());
    let again = Identity::take(&state_dir, ids(3)).unwrap();
    assert!((70_000..70_003).contains(&number(&again)));
}

#[test]
fn a_number_is_in_use_as_long_as_the_vmm_lives() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let state_dir = state_dir(&root);
    let shim = Identity::take(&state_dir, ids(1)).unwrap();
    let vmm = shim.as_fd().unwrap().try_clone_to_owned().unwrap();
    // Whoever has it cannot change what is written there.
    assert!(rustix::io::write(&vmm, b"1").is_err());
    drop(shim);
    assert!(Identity::take(&state_dir, ids(1)).is_err());
    release_dead(&state_dir).unwrap();
    assert!(Identity::take(&state_dir, ids(1)).is_err());
    drop(vmm);
    release_dead(&state_dir).unwrap();
    assert!(!root.exists());
    Identity::take(&state_dir, ids(1)).unwrap();
}

#[test]
fn what_a_dead_shim_left_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let state_dir = state_dir(&root);
    let mut dead = Identity::take(&state_dir, ids(1)).unwrap();
    dead.file = None;
    std::mem::forget(dead);
    assert!(root.join(".ids/70000").exists());
    let next = Identity::take(&state_dir, ids(1)).unwrap();
    assert_eq!(number(&next), 70_000);
}

#[test]
fn no_two_ever_have_the_same_however_they_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let state_dir = Arc::new(state_dir(&root));
    let holders = Arc::new([const { std::sync::atomic::AtomicU32::new(0) }; 3]);
    let together = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (state_dir, holders) = (state_dir.clone(), holders.clone());
            let together = together.clone();
            std::thread::spawn(move || {
                together.wait();
                let mut had = 0;
                for _ in 0..200 {
                    let Ok(identity) = Identity::take(&state_dir, ids(3)) else {
                        continue;
                    };
                    let holder = &holders[(number(&identity) - 70_000) as usize];
                    assert_eq!(holder.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    had += 1;
                    holder.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(identity);
                    release_dead(&state_dir).unwrap();
                }
                had
            })
        })
        .collect();
    let had: u32 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert!(had > 200, "{had}");
    assert!(!root.exists());
}
