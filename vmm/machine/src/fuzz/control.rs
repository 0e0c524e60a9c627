//! The control protocol, from both sides: whatever comes is answered or ends the conversation.
//!
//! The VMM trusts its shim, but a shim of another release is a thing that happens; the shim must
//! not trust its VMM at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use caisson_control::{
    BootConfig, Channel, ChannelError, DeviceConfig, DiskConfig, DiskPart, Event, Exit, ExitReason,
    FileRole, FileServerConfig, FromVmm, Limits, MAX_FILES, MAX_MESSAGE, Metrics, NetConfig,
    RefusalKind, Reply, Request, ToVmm, VERSION,
};
use rustix::fs::MemfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;

use super::boot::kernel;
use super::json::{any, damage, encode};
use super::{Random, run};
use crate::control::{ControlError, serve};

/// Messages of a conversation.
const MESSAGES: u64 = 12;

/// Boots that may get as far as to map guest memory, whose addresses are never given back.
static BOOTS: AtomicU32 = AtomicU32::new(4000);

#[test]
fn control() {
    run("control", 150, |random| {
        let (shim, vmm) = Channel::pair().unwrap();
        let vmm = std::thread::spawn(move || serve(vmm, 17));
        let answered = converse(random, &shim);
        drop(shim);
        let result = end(vmm);
        assert!(answered, "no answer: {result:?}");
    });
}

#[test]
fn replies() {
    run("replies", 1000, |random| {
        random.step();
        let (shim, vmm) = Channel::pair().unwrap();
        let mut message = serde_json::to_value(said(random)).unwrap();
        if random.one_in(2) {
            damage(random, &mut message);
        }
        let message = encode(random, &message);
        let files = files(random, 0);
        if send(&vmm, &message, &files).is_ok() {
            let _ = shim.receive::<FromVmm>();
        }
        drop(vmm);
        assert!(matches!(
            shim.receive::<FromVmm>(),
            Err(ChannelError::Closed)
        ));
    });
}

/// Says this and that until the VMM has had enough; false if it had no reason.
fn converse(random: &mut Random, shim: &Channel) -> bool {
    for _ in 0..MESSAGES {
        random.step();
        let id = random.number();
        let request = request(random);
        let files = files_for(random, &request);
        let mut message = serde_json::to_value(ToVmm { id, request }).unwrap();
        // What cannot be understood ends the conversation, so it is rare.
        let honest = !random.one_in(6);
        let bytes = if honest {
            serde_json::to_vec(&message).unwrap()
        } else {
            damage(random, &mut message);
            encode(random, &message)
        };
        let honest = honest && bytes.len() <= MAX_MESSAGE && files.len() <= MAX_FILES;
        match send(shim, &bytes, &files) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => return true,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => continue,
            Err(error) => panic!("{error}"),
        }
        loop {
            match shim.receive::<FromVmm>() {
                Ok((FromVmm::Event(_), _)) => {}
                Ok((FromVmm::Reply { id: replied, reply }, _)) => {
                    assert!(!honest || replied == id, "the answer to something else");
                    if reply == Reply::Stopped {
                        return true;
                    }
                    break;
                }
                Err(ChannelError::Closed) => return !honest,
                Err(error) => panic!("{error}"),
            }
        }
    }
    true
}

/// The VMM ends, with an error or without, and does not panic.
fn end(vmm: JoinHandle<Result<(), ControlError>>) -> Result<(), ChannelError> {
    match vmm.join().unwrap() {
        Ok(()) => Ok(()),
        Err(ControlError::Channel(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

/// Sends one packet with files, whatever is in it.
fn send(channel: &Channel, bytes: &[u8], files: &[OwnedFd]) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = vec![std::mem::MaybeUninit::uninit(); 4096];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let bytes = [io::IoSlice::new(bytes)];
    rustix::net::sendmsg(channel, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn request(random: &mut Random) -> Request {
    match random.below(16) {
        0..=7 => Request::Boot(boot(random)),
        8 => Request::ConnectGuest {
            port: random.number() as u32,
        },
        9 => random.pick_of([Request::Pause, Request::Resume, Request::Metrics]),
        10 => Request::Plug(device(random)),
        11 => Request::Unplug {
            slot: random.number() as u8,
        },
        12 => Request::SetVcpus {
            count: random.number() as u8,
        },
        13 => Request::SetHotplugMemory {
            mib: random.number() as u32,
        },
        14 => Request::SetBalloon {
            mib: random.number() as u32,
        },
        _ => Request::Stop,
    }
}

fn boot(random: &mut Random) -> BootConfig {
    let mut files = vec![FileRole::Kvm, FileRole::Kernel];
    for role in [FileRole::Initrd, FileRole::Console, FileRole::Memory] {
        if random.one_in(3) {
            files.push(role);
        }
    }
    if random.one_in(6) {
        let which = random.index(files.len());
        files.swap(0, which);
        let last = files.pop().filter(|_| random.one_in(2));
        files.extend(last);
    }
    let devices = match random.below(4) {
        0 => (0..random.below(4)).map(|_| device(random)).collect(),
        _ => Vec::new(),
    };
    let sane = BOOTS.load(Ordering::Relaxed) > 0;
    let memory_mib = match random.below(8) {
        // Too little, and more than can be addressed.
        0 => random.pick(&[0, 1, 63, 1 << 27, u32::MAX]),
        _ if !sane => 0,
        1 => 3 * 1024 + 64,
        _ => 64,
    };
    if (64..1 << 20).contains(&memory_mib) {
        BOOTS.fetch_sub(1, Ordering::Relaxed);
    }
    BootConfig {
        version: if random.one_in(16) { 0 } else { VERSION },
        vcpus: random.pick(&[1, 1, 1, 2, 32, 33, 0, 255]),
        max_vcpus: random.pick(&[32, 32, 32, 1, 33, 0]),
        memory_mib,
        hotplug_memory_mib: random.pick(&[0, 0, 128, 127, u32::MAX]),
        cmdline: "x".repeat(random.pick(&[0, 10, 2047, 2048, 5000, 70_000])),
        guest_cid: random.pick(&[3, 3, 3, 2, 0, u32::MAX]),
        virtio_console: random.one_in(2),
        files,
        devices,
    }
}

fn device(random: &mut Random) -> DeviceConfig {
    let text = "d".repeat(random.pick(&[1, 20, 21, 36, 37, 0]));
    match random.below(6) {
        0 => DeviceConfig::Disk(DiskConfig {
            id: text,
            read_only: random.one_in(2),
            direct: random.one_in(2),
            queues: random.number() as u8,
            limits: Limits::default(),
            parts: (0..random.pick(&[0, 0, 1, 2, 128, 129]))
                .map(|_| DiskPart {
                    offset: random.pick(&[0, 4096, 8192, 1, u64::MAX]),
                    bytes: random.pick(&[512, 4096, 0, 1, u64::MAX]),
                })
                .collect(),
        }),
        1 => DeviceConfig::Net(NetConfig {
            mac: [random.number() as u8; 6],
            mtu: Some(random.number() as u16),
            queue_pairs: random.pick(&[1, 1, 2, 0, 8, 9, 255]),
            receive: Limits::default(),
            transmit: Limits::default(),
        }),
        2 => DeviceConfig::Balloon,
        3 => DeviceConfig::Memory,
        4 => DeviceConfig::Rng,
        _ => DeviceConfig::FileServer(FileServerConfig { tag: text }),
    }
}

/// What a VMM might say.
fn said(random: &mut Random) -> FromVmm {
    let id = random.number();
    let message = "m".repeat(random.pick(&[0, 10, 4096]));
    let kind = RefusalKind::Kvm;
    let slots = vec![random.number() as u8; random.index(30)];
    let vcpu_exits = vec![random.next(); random.index(40)];
    let metrics = Metrics {
        vcpu_exits,
        ..Metrics::default()
    };
    let reply = |reply| FromVmm::Reply { id, reply };
    random.pick_of([
        reply(Reply::Booted { slots }),
        reply(Reply::Metrics(metrics)),
        reply(Reply::Refused {
            kind,
            message: message.clone(),
        }),
        FromVmm::Event(Event::GuestConnected { port: 5 }),
        FromVmm::Event(Event::DeviceFault {
            device: "rng".to_owned(),
            message: message.clone(),
        }),
        FromVmm::Event(Event::Exit(Exit {
            reason: ExitReason::Failed {
                message: message.clone(),
            },
            console: message,
        })),
    ])
}

/// As many files as the request needs, of which some are not what they should be.
fn files_for(random: &mut Random, request: &Request) -> Vec<OwnedFd> {
    let needed = match request {
        Request::Boot(config) => {
            let devices = config.devices.iter().map(DeviceConfig::file_count);
            config.files.len() + devices.sum::<usize>()
        }
        Request::ConnectGuest { .. } => 1,
        Request::Plug(device) => device.file_count(),
        _ => 0,
    };
    files(random, needed)
}

fn files(random: &mut Random, needed: usize) -> Vec<OwnedFd> {
    let count = match random.below(16) {
        0 => random.index(70),
        _ => needed,
    };
    // The kernel refuses more than 253 files beside a message.
    (0..count.min(100)).map(|_| file(random)).collect()
}

fn file(random: &mut Random) -> OwnedFd {
    let open = |path| std::fs::File::open(path).unwrap().into();
    match random.below(8) {
        0 => open("/dev/null"),
        1 => open("/dev/zero"),
        2 => open("/"),
        3 => io::pipe().unwrap().0.into(),
        4 => std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        5 => rustix::fs::memfd_create("empty", MemfdFlags::CLOEXEC).unwrap(),
        _ => kernel(random).into(),
    }
}

/// JSON that has nothing to do with the protocol.
#[test]
fn nonsense() {
    run("nonsense", 300, |random| {
        random.step();
        let (shim, vmm) = Channel::pair().unwrap();
        let value: Value = any(random, 6);
        let bytes = encode(random, &value);
        if bytes.is_empty() || send(&shim, &bytes, &[]).is_err() {
            return;
        }
        let vmm = std::thread::spawn(move || serve(vmm, 17));
        // The first message is that it has started; then it understands nothing and ends.
        assert!(shim.receive::<FromVmm>().is_ok());
        assert!(matches!(
            shim.receive::<FromVmm>(),
            Err(ChannelError::Closed)
        ));
        assert!(end(vmm).is_err());
    });
}
