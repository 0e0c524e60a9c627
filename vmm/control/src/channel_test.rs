use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use super::{Channel, ChannelError, MAX_MESSAGE};
use crate::{Event, FromVmm, Request, ToVmm};

#[test]
fn a_message_arrives_with_its_files() {
    let (shim, vmm) = Channel::pair().unwrap();
    let mut file = tempfile_with(b"kernel");
    let sent = ToVmm {
        id: 7,
        request: Request::ConnectGuest { port: 1024 },
    };

    shim.send(&sent, &[file.as_fd()]).unwrap();
    let (received, mut files) = vmm.receive::<ToVmm>().unwrap();

    assert_eq!(received, sent);
    let mut text = String::new();
    File::from(files.remove(0))
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "kernel");
    file.flush().unwrap();
}

#[test]
fn a_closed_end_is_told_from_an_error() {
    let (shim, vmm) = Channel::pair().unwrap();
    drop(shim);
    assert!(matches!(vmm.receive::<ToVmm>(), Err(ChannelError::Closed)));
    let gone = FromVmm::Event(Event::GuestConnected { port: 1 });
    assert!(matches!(vmm.send(&gone, &[]), Err(ChannelError::Closed)));
}

#[test]
fn last_words_are_heard_even_if_a_request_was_not() {
    let (shim, vmm) = Channel::pair().unwrap();
    let id = 1;
    let request = Request::Pause;
    shim.send(&ToVmm { id, request }, &[]).unwrap();
    let last = FromVmm::Event(Event::GuestConnected { port: 1 });
    vmm.send(&last, &[]).unwrap();
    // With the request in it, for which the kernel tells the other side that it was reset.
    drop(vmm);
    assert_eq!(shim.receive::<FromVmm>().unwrap().0, last);
    assert!(matches!(
        shim.receive::<FromVmm>(),
        Err(ChannelError::Closed)
    ));
}

#[test]
fn an_oversized_message_is_refused_before_it_is_sent() {
    let (shim, _vmm) = Channel::pair().unwrap();
    let long = "x".repeat(MAX_MESSAGE);
    assert!(matches!(
        shim.send(&long, &[]),
        Err(ChannelError::TooLarge { .. })
    ));
}

#[test]
fn an_unknown_field_is_malformed() {
    let (shim, vmm) = Channel::pair().unwrap();
    shim.send(
        &serde_json::json!({"id": 1, "request": {"connect_guest": {"pory": 1}}}),
        &[],
    )
    .unwrap();
    assert!(matches!(
        vmm.receive::<ToVmm>(),
        Err(ChannelError::Malformed(_))
    ));
}

fn tempfile_with(content: &[u8]) -> File {
    let name = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(name);
    file.write_all(content).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}
