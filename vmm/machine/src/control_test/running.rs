//! A machine that runs, on the real KVM, with a kernel that only spins. Without a usable /dev/kvm
//! the tests say so and pass.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use caisson_control::{
    BootConfig, DeviceConfig, Event, Exit, ExitReason, FileServerConfig, FromVmm, Metrics, Phase,
    RefusalKind, Reply, Request,
};

use super::{Shim, boot};
use crate::boot::test_kernel::test_kernel;
use crate::test_kvm;

/// `jmp .`
const SPIN: [u8; 2] = [0xeb, 0xfe];

impl Shim {
    /// A shim whose machine runs `program`; `None` without KVM.
    fn with_machine(config: BootConfig, devices: Vec<OwnedFd>) -> Option<Self> {
        let kvm = test_kvm::open()?;
        let shim = Self::new();
        let mut kernel = tempfile::tempfile().unwrap();
        kernel.write_all(&test_kernel(&SPIN)).unwrap();
        let mut files = vec![kvm, kernel.into()];
        files.extend(devices);
        match shim.ask(Request::Boot(config), &files) {
            Reply::Booted { .. } => {}
            Reply::Refused {
                kind: RefusalKind::Kvm,
                message,
            } => {
                eprintln!("skipped: /dev/kvm makes no machine: {message}");
                return None;
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            shim.receive(),
            FromVmm::Event(Event::Phase {
                phase: Phase::VcpuEntered,
                ..
            })
        ));
        Some(shim)
    }

    /// The reply to a request; no event comes before it.
    fn ask(&self, request: Request, files: &[OwnedFd]) -> Reply {
        self.send(5, request, files);
        match self.receive() {
            FromVmm::Reply { id: 5, reply } => reply,
            other => panic!("{other:?}"),
        }
    }

    fn metrics(&self) -> Metrics {
        match self.ask(Request::Metrics, &[]) {
            Reply::Metrics(metrics) => metrics,
            other => panic!("{other:?}"),
        }
    }

    /// Stops the machine, which ends in order.
    fn stop(self) {
        assert_eq!(self.ask(Request::Stop, &[]), Reply::Stopped);
        let stopped = Exit {
            reason: ExitReason::Stopped,
            console: String::new(),
        };
        assert_eq!(self.receive(), FromVmm::Event(Event::Exit(stopped)));
        assert!(self.vmm.join().unwrap().is_ok());
    }
}

fn file_server(tag: &str) -> DeviceConfig {
    DeviceConfig::FileServer(FileServerConfig {
        tag: tag.to_owned(),
    })
}

/// One end of a connection to a file server that says nothing.
fn socket() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs)
}

/// A machine with a file server called "first".
fn machine() -> Option<(Shim, UnixStream)> {
    let (socket, server) = socket();
    let config = BootConfig {
        max_vcpus: 4,
        devices: vec![file_server("first")],
        ..boot()
    };
    Some((Shim::with_machine(config, vec![socket])?, server))
}

#[test]
fn pausing_and_resuming_can_be_repeated() {
    let Some((shim, _server)) = machine() else {
        return;
    };
    for request in [
        Request::Resume,
        Request::Pause,
        Request::Pause,
        Request::Metrics,
        Request::Resume,
        Request::Resume,
        Request::Pause,
    ] {
        let reply = shim.ask(request, &[]);
        assert!(
            matches!(reply, Reply::Done | Reply::Metrics(_)),
            "{reply:?}"
        );
    }
    shim.stop();
}

#[test]
fn a_slot_is_free_again_after_an_unplug() {
    let Some((shim, _server)) = machine() else {
        return;
    };
    let at_first = shim.metrics().devices;
    for _ in 0..100 {
        let (socket, mut server) = socket();
        let Reply::Plugged { slot } = shim.ask(Request::Plug(file_server("second")), &[socket])
        else {
            panic!("not plugged");
        };
        let devices = shim.metrics().devices;
        assert_eq!(devices.len(), at_first.len() + 1);
        assert_eq!(devices.last().unwrap().slot, slot);
        assert_eq!(devices.last().unwrap().device, "fs");
        assert_eq!(shim.ask(Request::Unplug { slot }, &[]), Reply::Done);
        let end = std::io::Read::read(&mut server, &mut [0]).unwrap();
        assert_eq!(end, 0, "the VMM has let go of the socket");
    }
    assert_eq!(shim.metrics().devices, at_first);
    shim.stop();
}

#[test]
fn the_bus_takes_as_many_devices_as_it_has_slots() {
    let Some((shim, _server)) = machine() else {
        return;
    };
    let mut servers = Vec::new();
    let refusal = loop {
        let (socket, server) = socket();
        servers.push(server);
        let device = file_server(&format!("server{}", servers.len()));
        match shim.ask(Request::Plug(device), &[socket]) {
            Reply::Plugged { .. } => {}
            Reply::Refused { message, .. } => break message,
            other => panic!("{other:?}"),
        }
    };
    assert!(refusal.contains("31 functions"), "{refusal}");
    assert!(servers.len() > 20);
    shim.stop();
}

#[test]
fn what_cannot_be_plugged_is_refused_and_changes_nothing() {
    let Some((shim, _server)) = machine() else {
        return;
    };
    let before = shim.metrics().devices;
    let (one, _a) = socket();
    let (two, _b) = socket();
    let wrong: [(Request, Vec<OwnedFd>, &str); 8] = [
        (Request::Plug(file_server("x")), vec![], "1 files must come"),
        (Request::Plug(file_server("x")), vec![one, two], "not 2"),
        (
            Request::Plug(file_server("first")),
            vec![socket().0],
            "there is file server \"first\" already",
        ),
        (
            Request::Plug(file_server("")),
            vec![socket().0],
            "not 1 to 36 bytes",
        ),
        (
            Request::Plug(DeviceConfig::Rng),
            vec![socket().0],
            "0 files must come",
        ),
        (
            Request::Plug(DeviceConfig::Memory),
            vec![],
            "hotplug_memory_mib",
        ),
        (Request::Unplug { slot: 0 }, vec![], "slot 0"),
        (Request::Unplug { slot: 200 }, vec![], "slot 200"),
    ];
    for (request, files, part) in wrong {
        let (_, message) = shim.refusal(request, &files);
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(shim.metrics().devices, before);
    shim.stop();
}

#[test]
fn vcpus_are_made_up_to_the_number_that_was_agreed_on() {
    let Some((shim, _server)) = machine() else {
        return;
    };
    assert_eq!(shim.metrics().vcpu_exits.len(), 1);
    for (count, present) in [(3, 3), (2, 3), (4, 4)] {
        assert_eq!(shim.ask(Request::SetVcpus { count }, &[]), Reply::Done);
        assert_eq!(shim.metrics().vcpu_exits.len(), present);
    }
    for count in [0, 5, 255] {
        let (kind, message) = shim.refusal(Request::SetVcpus { count }, &[]);
        assert_eq!(kind, RefusalKind::Invalid);
        assert!(message.contains("1 to 4"), "{message}");
    }
    // Those that the guest has not started can be paused too.
    assert_eq!(shim.ask(Request::Pause, &[]), Reply::Done);
    assert_eq!(shim.ask(Request::SetVcpus { count: 4 }, &[]), Reply::Done);
    assert_eq!(shim.ask(Request::Resume, &[]), Reply::Done);
    shim.stop();
}

#[test]
fn a_machine_is_booted_once() {
    let Some((shim, _server)) = machine() else {
        return;
    };
    let (_, message) = shim.refusal(Request::Boot(boot()), &[]);
    assert!(message.contains("runs already"), "{message}");
    shim.stop();
}

/// The names of the devices on the bus.
fn devices(shim: &Shim) -> Vec<String> {
    let devices = shim.metrics().devices.into_iter();
    devices.map(|device| device.device).collect()
}

/// Puts a device on the bus that needs no file.
fn plugged(shim: &Shim, device: DeviceConfig) -> u8 {
    match shim.ask(Request::Plug(device), &[]) {
        Reply::Plugged { slot } => slot,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_has_no_device_that_it_was_not_given() {
    let Some(shim) = Shim::with_machine(boot(), vec![]) else {
        return;
    };
    assert_eq!(devices(&shim), ["vsock"]);
    let (kind, message) = shim.refusal(Request::SetBalloon { mib: 1 }, &[]);
    assert_eq!(kind, RefusalKind::Invalid);
    assert!(message.contains("no balloon yet"), "{message}");

    let slot = plugged(&shim, DeviceConfig::Balloon);
    plugged(&shim, DeviceConfig::Rng);
    assert_eq!(devices(&shim), ["vsock", "balloon", "rng"]);
    let (_, message) = shim.refusal(Request::Plug(DeviceConfig::Balloon), &[]);
    assert!(message.contains("a balloon already"), "{message}");
    assert_eq!(shim.ask(Request::SetBalloon { mib: 1 }, &[]), Reply::Done);

    assert_eq!(shim.ask(Request::Unplug { slot }, &[]), Reply::Done);
    let (_, message) = shim.refusal(Request::SetBalloon { mib: 1 }, &[]);
    assert!(message.contains("no balloon yet"), "{message}");
    assert_eq!(devices(&shim), ["vsock", "rng"]);
    shim.stop();
}

#[test]
fn a_balloon_cannot_take_everything() {
    let Some(shim) = Shim::with_machine(boot(), vec![]) else {
        return;
    };
    plugged(&shim, DeviceConfig::Balloon);
    for mib in [63, 0] {
        assert_eq!(shim.ask(Request::SetBalloon { mib }, &[]), Reply::Done);
    }
    for mib in [64, 65, u32::MAX] {
        let (kind, message) = shim.refusal(Request::SetBalloon { mib }, &[]);
        assert_eq!(kind, RefusalKind::Invalid);
        assert!(message.contains("smaller than the memory"), "{message}");
    }
    let memory = shim.metrics().memory;
    assert_eq!((memory.boot_mib, memory.balloon_mib), (64, 0));
    shim.stop();
}

#[test]
fn memory_is_plugged_only_into_a_machine_made_for_it() {
    let Some(shim) = Shim::with_machine(boot(), vec![]) else {
        return;
    };
    for mib in [0, 128] {
        let (kind, message) = shim.refusal(Request::SetHotplugMemory { mib }, &[]);
        assert_eq!(kind, RefusalKind::Invalid);
        assert!(message.contains("hotplug_memory_mib"), "{message}");
    }
    shim.stop();
    let config = BootConfig {
        hotplug_memory_mib: 256,
        ..boot()
    };
    let shim = Shim::with_machine(config, vec![]).unwrap();
    let (_, message) = shim.refusal(Request::SetHotplugMemory { mib: 0 }, &[]);
    assert!(message.contains("no memory device yet"), "{message}");
    let slot = plugged(&shim, DeviceConfig::Memory);
    assert_eq!(devices(&shim), ["vsock", "memory"]);
    for mib in [0, 1, 256] {
        let reply = shim.ask(Request::SetHotplugMemory { mib }, &[]);
        assert_eq!(reply, Reply::Done);
    }
    for mib in [257, u32::MAX] {
        let (kind, message) = shim.refusal(Request::SetHotplugMemory { mib }, &[]);
        assert_eq!(kind, RefusalKind::Invalid);
        assert!(message.contains("at most 256"), "{message}");
    }
    let memory = shim.metrics().memory;
    assert_eq!((memory.boot_mib, memory.plugged_mib), (64, 0));
    let (_, message) = shim.refusal(Request::Unplug { slot }, &[]);
    assert!(message.contains("can be taken off"), "{message}");
    shim.stop();
}

#[test]
fn the_console_device_is_there_if_asked_for() {
    let config = BootConfig {
        virtio_console: true,
        ..boot()
    };
    let Some(shim) = Shim::with_machine(config, vec![]) else {
        return;
    };
    assert_eq!(devices(&shim), ["vsock", "console"]);
    shim.stop();
}
