use super::{Ring, number, tag};
use crate::devices::block::disk::{Disk, Extent};
use crate::devices::block::engine::{Call, Clearing, Engine, Tag};
use crate::devices::block::vectors::{Durability, Vectors};
use io_uring::{opcode, types};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// The number of the one registered file.
const FILE: types::Fixed = types::Fixed(0);

fn ring() -> Option<Ring> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = Arc::new(Disk::new(file.into(), false, false).unwrap());
    Ring::new(&disk)
        .inspect_err(|error| eprintln!("skipped: the kernel refuses io_uring: {error}"))
        .ok()
}

/// The result of one raw operation.
fn try_operation(ring: &mut Ring, entry: &io_uring::squeue::Entry) -> i32 {
    // SAFETY: none of the operations of these tests has a buffer.
    unsafe { ring.ring.submission().push(entry) }.unwrap();
    ring.ring.submit_and_wait(1).unwrap();
    ring.ring.completion().next().unwrap().result()
}

#[test]
fn a_ring_does_nothing_but_what_a_disk_needs() {
    let Some(mut ring) = ring() else { return };
    let fsync = opcode::Fsync::new(FILE).build();
    assert_eq!(try_operation(&mut ring, &fsync), 0);
    // Another operation, and the right one on a file that was not registered.
    let nop = opcode::Nop::new().build();
    assert_eq!(try_operation(&mut ring, &nop), -libc::EACCES);
    let close = opcode::Close::new(types::Fd(1_000_000)).build();
    assert_eq!(try_operation(&mut ring, &close), -libc::EACCES);
    let stranger = tempfile::tempfile().unwrap();
    let fsync = opcode::Fsync::new(types::Fd(stranger.as_raw_fd())).build();
    assert_eq!(try_operation(&mut ring, &fsync), -libc::EACCES);
    // Nor can other files be registered.
    let update = ring
        .ring
        .submitter()
        .register_files_update(0, &[stranger.as_raw_fd()]);
    assert_eq!(update.unwrap_err().raw_os_error(), Some(libc::EACCES));
}

#[test]
fn calls_come_back_with_their_tags() {
    let Some(mut ring) = ring() else { return };
    let tags = [(0, 0), (7, 65535), (65535, 1)].map(|(queue, head)| Tag { queue, head });
    for (at, tag) in (0..).zip(tags) {
        let call = Call::Write {
            offset: at * 512,
            from: Vectors::zeroes(512),
            durability: Durability::Volatile,
        };
        ring.start(tag, call).unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < tags.len() {
        ring.wait().unwrap();
        while let Some(done) = ring.take_done() {
            assert_eq!(done.result.unwrap(), 512);
            seen.push(done.tag);
        }
    }
    seen.sort();
    assert_eq!(seen, tags);
    assert!(ring.calls.is_empty());
}

#[test]
fn a_second_call_for_a_chain_is_refused() {
    let Some(mut ring) = ring() else { return };
    let tag = Tag { queue: 0, head: 3 };
    ring.start(tag, Call::Sync).unwrap();
    ring.start(tag, Call::Sync).unwrap_err();
    ring.wait().unwrap();
    assert!(ring.take_done().unwrap().result.is_ok());
    assert!(ring.take_done().is_none());
}

#[test]
fn an_error_of_the_host_is_told() {
    let Some(mut ring) = ring() else { return };
    let nothing = Extent {
        offset: 0,
        length: 0,
    };
    let call = Call::Clear(Clearing::Punch, nothing);
    ring.start(Tag { queue: 0, head: 0 }, call).unwrap();
    ring.wait().unwrap();
    let error = ring.take_done().unwrap().result.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn what_is_in_no_file_does_not_reach_the_kernel() {
    let Some(mut ring) = ring() else { return };
    let outside = Extent {
        offset: 1 << 20,
        length: 512,
    };
    let call = Call::Clear(Clearing::Punch, outside);
    ring.start(Tag { queue: 0, head: 0 }, call).unwrap_err();
    assert!(ring.calls.is_empty());
}

#[test]
fn there_is_nothing_to_wait_for_in_an_idle_ring() {
    let Some(mut ring) = ring() else { return };
    ring.wait().unwrap();
    assert!(ring.take_done().is_none());
}

#[test]
fn tags_survive_as_numbers() {
    for (queue, head) in [(0, 0), (1, 0), (0, 1), (65535, 65535)] {
        let expected = Tag { queue, head };
        assert_eq!(tag(number(expected)), expected);
    }
}
