use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use caisson_control::{
    BootConfig, Channel, ChannelError, Event, Exit, ExitReason, FileRole, FromVmm, Phase,
    RefusalKind, Reply, Request, ToVmm, VERSION,
};

use super::{ControlError, serve};

#[path = "control_test/running.rs"]
mod running;

/// The shim's side of a VMM that runs on a thread.
struct Shim {
    channel: Channel,
    vmm: JoinHandle<Result<(), ControlError>>,
}

impl Shim {
    fn new() -> Self {
        let (channel, vmm) = Channel::pair().unwrap();
        let vmm = std::thread::spawn(move || serve(vmm, 17));
        let shim = Self { channel, vmm };
        let started = FromVmm::Event(Event::Phase {
            phase: Phase::VmmStarted,
            at_ns: 17,
        });
        assert_eq!(shim.receive(), started);
        shim
    }

    fn send(&self, id: u64, request: Request, files: &[OwnedFd]) {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.channel.send(&ToVmm { id, request }, &files).unwrap();
    }

    fn receive(&self) -> FromVmm {
        self.channel.receive::<FromVmm>().unwrap().0
    }

    /// Sends a request that is refused and returns why.
    fn refusal(&self, request: Request, files: &[OwnedFd]) -> (RefusalKind, String) {
        self.send(5, request, files);
        match self.receive() {
            FromVmm::Reply {
                id: 5,
                reply: Reply::Refused { kind, message },
            } => (kind, message),
            other => panic!("{other:?}"),
        }
    }
}

fn boot() -> BootConfig {
    BootConfig {
        version: VERSION,
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: 64,
        hotplug_memory_mib: 0,
        virtio_console: false,
        cmdline: String::new(),
        guest_cid: 3,
        files: vec![FileRole::Kvm, FileRole::Kernel],
        devices: Vec::new(),
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn the_vmm_ends_when_the_shim_is_gone() {
    let shim = Shim::new();
    drop(shim.channel);
    assert!(shim.vmm.join().unwrap().is_ok());
}

#[test]
fn nothing_comes_before_the_boot() {
    let shim = Shim::new();
    for request in [Request::Metrics, Request::ConnectGuest { port: 1 }] {
        let (kind, message) = shim.refusal(request, &[]);
        assert_eq!(kind, RefusalKind::Invalid);
        assert!(message.contains("boot"), "{message}");
    }
}

#[test]
fn a_stop_before_the_boot_is_an_orderly_end() {
    let shim = Shim::new();
    shim.send(9, Request::Stop, &[]);
    let stopped = FromVmm::Reply {
        id: 9,
        reply: Reply::Stopped,
    };
    assert_eq!(shim.receive(), stopped);
    let exit = FromVmm::Event(Event::Exit(Exit {
        reason: ExitReason::Stopped,
        console: String::new(),
    }));
    assert_eq!(shim.receive(), exit);
    assert!(matches!(
        shim.channel.receive::<FromVmm>(),
        Err(ChannelError::Closed)
    ));
    assert!(shim.vmm.join().unwrap().is_ok());
}

#[test]
fn a_refused_boot_changes_nothing_and_can_be_tried_again() {
    let shim = Shim::new();
    let (kind, message) = shim.refusal(Request::Boot(boot()), &[null()]);
    assert_eq!(kind, RefusalKind::Invalid);
    assert!(message.contains("2 files and 1"), "{message}");

    let wrong = BootConfig {
        version: VERSION + 1,
        ..boot()
    };
    let (kind, message) = shim.refusal(Request::Boot(wrong), &[null(), null()]);
    assert_eq!(kind, RefusalKind::Invalid);
    assert!(message.contains("same release"), "{message}");

    let (kind, _) = shim.refusal(Request::Boot(boot()), &[null(), null()]);
    assert_eq!(kind, RefusalKind::Kernel);
    let (kind, _) = shim.refusal(Request::Metrics, &[]);
    assert_eq!(kind, RefusalKind::Invalid, "still not booted");
}

#[test]
fn files_of_a_refused_boot_are_closed() {
    let shim = Shim::new();
    let (mut read, write) = std::io::pipe().unwrap();
    shim.refusal(Request::Boot(boot()), &[write.into()]);
    let end = std::io::Read::read(&mut read, &mut [0]).unwrap();
    assert_eq!(end, 0, "nobody holds the other end any more");
}

#[test]
fn a_message_outside_the_protocol_ends_the_vmm() {
    let shim = Shim::new();
    shim.channel
        .send(&serde_json::json!({"id": 1, "request": "sing"}), &[])
        .unwrap();
    let error = shim.vmm.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("not understood"), "{error}");
}
