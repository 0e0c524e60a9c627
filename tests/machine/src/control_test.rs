#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use caisson_control::{Channel, Event, FromVmm, Phase, Reply, Request, ToVmm};

use super::Control;

fn pair() -> (Control, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    (Control::new(ours), theirs)
}

#[test]
fn replies_find_their_requests_in_any_order() {
    let (control, vmm) = pair();
    thread::scope(|scope| {
        let connected = scope.spawn(|| control.ask(Request::ConnectGuest { port: 1 }, &[]));
        let (first, _) = vmm.receive::<ToVmm>().unwrap();
        let paused = scope.spawn(|| control.ask(Request::Pause, &[]));
        let (second, _) = vmm.receive::<ToVmm>().unwrap();
        for (id, reply) in [(second.id, Reply::Done), (first.id, Reply::Connected)] {
            vmm.send(&FromVmm::Reply { id, reply }, &[]).unwrap();
        }
        assert_eq!(paused.join().unwrap(), Ok(Reply::Done));
        assert_eq!(connected.join().unwrap(), Ok(Reply::Connected));
    });
}

#[test]
fn events_wait_until_somebody_asks_for_them() {
    let (control, vmm) = pair();
    let phase = |phase| Event::Phase { phase, at_ns: 5 };
    for event in [
        phase(Phase::VmmStarted),
        Event::MemoryPressure { balloon_mib: 7 },
        phase(Phase::AgentStarted),
    ] {
        vmm.send(&FromVmm::Event(event), &[]).unwrap();
    }
    let balloon = control.event("pressure", |event| match event {
        Event::MemoryPressure { balloon_mib } => Some(*balloon_mib),
        _ => None,
    });
    assert_eq!(balloon, Ok(7));
    let last = control.event("the last phase", |event| {
        (*event == phase(Phase::AgentStarted)).then_some(())
    });
    assert_eq!(last, Ok(()));
    assert_eq!(control.events(), [phase(Phase::VmmStarted)]);
}

#[test]
fn a_connection_of_the_guest_is_found_by_its_port() {
    let (control, vmm) = pair();
    let mut guests = Vec::new();
    for port in [1, 2] {
        let (host, guest) = UnixStream::pair().unwrap();
        let event = FromVmm::Event(Event::GuestConnected { port });
        vmm.send(&event, &[host.as_fd()]).unwrap();
        guests.push((port, guest));
    }
    for (port, mut guest) in guests.into_iter().rev() {
        guest.write_all(format!("port {port}").as_bytes()).unwrap();
        drop(guest);
        let mut text = String::new();
        let mut connection = control.connection(port).unwrap();
        connection.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("port {port}"));
    }
}

#[test]
fn whoever_waits_learns_that_the_vmm_is_gone() {
    let (control, vmm) = pair();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| control.ask(Request::Metrics, &[]));
        let _ = vmm.receive::<ToVmm>().unwrap();
        drop(vmm);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(error.contains("closed the control channel"), "{error}");
    });
}

#[test]
fn closing_is_seen_by_the_vmm() {
    let (mut control, vmm) = pair();
    control.close();
    assert!(vmm.receive::<ToVmm>().is_err());
}
