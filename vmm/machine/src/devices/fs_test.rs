use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{FileSystem, PROTOCOL_FEATURES, QUEUE_SIZES};
use crate::memory::{Backing, GuestRam};
use crate::virtio::device::{Device, DeviceFault, QueuePosition, Running, Stopped};
use crate::virtio::mock_driver::{MockDriver, activation};

// Requests of the vhost-user protocol.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;

/// VERSION_1, EVENT_IDX, INDIRECT_DESC.
const RING_FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28;
/// MQ and REPLY_ACK.
const PROTOCOL: u64 = 1 | 1 << 3;

/// How the server behaves.
struct Behaviour {
    features: u64,
    protocol: u64,
    queues: u64,
    /// The position it tells for each queue.
    base: u32,
    /// Requests it reads and does not answer.
    mute: Option<u32>,
    /// Requests it answers with the reply to another one.
    confused: Option<u32>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            features: RING_FEATURES | PROTOCOL_FEATURES,
            protocol: PROTOCOL,
            queues: 2,
            base: 0,
            mute: None,
            confused: None,
        }
    }
}

/// What a server was told.
#[derive(Default)]
struct Told {
    messages: Vec<(u32, Vec<u8>)>,
    /// Files of the last message of each kind and queue.
    files: HashMap<(u32, u64), Vec<File>>,
}

impl Told {
    fn count(&self, request: u32) -> usize {
        self.messages
            .iter()
            .filter(|(seen, _)| *seen == request)
            .count()
    }

    /// The values told for each queue by messages of this kind.
    fn values(&self, request: u32) -> Vec<(u32, u32)> {
        let of_kind = self.messages.iter().filter(|(seen, _)| *seen == request);
        of_kind
            .map(|(_, payload)| (word(payload, 0), word(payload, 4)))
            .collect()
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A file server that only speaks the protocol. Ends with the connection.
fn server(behaviour: Behaviour) -> (UnixStream, JoinHandle<Told>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let mut told = Told::default();
        while speak(&theirs, &behaviour, &mut told).is_some() {}
        told
    });
    (ours, server)
}

fn speak(mut socket: &UnixStream, behaviour: &Behaviour, told: &mut Told) -> Option<()> {
    let mut header = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut header)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .ok()?;
    if received.bytes == 0 {
        return None;
    }
    let files: Vec<File> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files.map(File::from)),
            _ => None,
        })
        .flatten()
        .collect();
    let (request, flags) = (word(&header, 0), word(&header, 4));
    let mut payload = vec![0; word(&header, 8) as usize];
    socket.read_exact(&mut payload).ok()?;
    if !files.is_empty() {
        let queue = long(&payload, 0) & 0xff;
        told.files.insert((request, queue), files);
    }
    let answer = match request {
        GET_FEATURES => Some(behaviour.features.to_le_bytes().to_vec()),
        GET_PROTOCOL_FEATURES => Some(behaviour.protocol.to_le_bytes().to_vec()),
        GET_QUEUE_NUM => Some(behaviour.queues.to_le_bytes().to_vec()),
        GET_VRING_BASE => Some([&payload[..4], &behaviour.base.to_le_bytes()].concat()),
        _ if flags & 8 != 0 => Some(vec![0; 8]),
        _ => None,
    };
    told.messages.push((request, payload));
    if let Some(answer) = answer
        && behaviour.mute != Some(request)
    {
        let request = if behaviour.confused == Some(request) {
            40
        } else {
            request
        };
        let mut reply = Vec::new();
        for value in [request, 1 | 4, answer.len() as u32] {
            reply.extend(value.to_le_bytes());
        }
        reply.extend(answer);
        socket.write_all(&reply).ok()?;
    }
    Some(())
}

/// Drivers of both queues in memory that can be shared.
fn drivers(backing: Backing) -> [MockDriver; 2] {
    let memory = Arc::new(GuestRam::with_hotplug(64, 128, backing).unwrap());
    [
        MockDriver::new(&memory, 0x1000, QUEUE_SIZES[0]),
        MockDriver::new(&memory, 0x10000, QUEUE_SIZES[1]),
    ]
}

fn activate(
    device: Box<dyn Device>,
    drivers: &[MockDriver; 2],
) -> Result<Box<dyn Running>, (Box<dyn Device>, DeviceFault)> {
    let queues = vec![
        Some(drivers[0].queue(0).unwrap()),
        Some(drivers[1].queue(1).unwrap()),
    ];
    device.activate(activation(RING_FEATURES, &drivers[0].memory, queues))
}

fn device(socket: UnixStream) -> Box<dyn Device> {
    Box::new(FileSystem::new("caisson", socket).unwrap())
}

/// The sentence of the fault with which activation fails.
fn fault(behaviour: Behaviour, backing: Backing) -> String {
    let (socket, server) = server(behaviour);
    let drivers = drivers(backing);
    let Err((device, fault)) = activate(device(socket), &drivers) else {
        panic!("activated");
    };
    // The connection is cut at once, so that the server lets go of what it got; and the device
    // never uses another.
    server.join().unwrap();
    let Err((_, again)) = activate(device, &drivers) else {
        panic!("activated");
    };
    assert!(
        again.to_string().contains("the file server is gone"),
        "{again}"
    );
    fault.to_string()
}

#[test]
fn the_server_gets_memory_and_queues() {
    let (socket, server) = server(Behaviour::default());
    let drivers = drivers(Backing::Shared);
    let running = activate(device(socket), &drivers)
        .map_err(|(_, fault)| fault)
        .unwrap();
    assert!(!running.serves_queues());
    drivers[1].write(0x12345, b"from the guest");
    drivers[1].kick.write(1).unwrap();
    drop(running);
    let mut told = server.join().unwrap();

    assert_eq!(told.values(SET_VRING_NUM), [(0, 64), (1, 512)]);
    assert_eq!(told.values(SET_VRING_ENABLE), [(0, 1), (1, 1)]);
    let features = told
        .messages
        .iter()
        .find(|(seen, _)| *seen == SET_FEATURES)
        .unwrap();
    assert_eq!(long(&features.1, 0), RING_FEATURES | PROTOCOL_FEATURES);
    // Two regions, of which the second is for what is plugged later: guest address, size, our
    // address, offset in the file.
    let table = told
        .messages
        .iter()
        .find(|(seen, _)| *seen == SET_MEM_TABLE)
        .unwrap();
    assert_eq!(word(&table.1, 0), 2);
    let region = |at: usize| {
        let field = |offset: usize| long(&table.1, at + offset);
        (field(0), field(8), field(24))
    };
    assert_eq!(region(8), (0, 64 << 20, 0));
    assert_eq!(region(40), (4 << 30, 128 << 20, 64 << 20));
    let memory = &told.files[&(SET_MEM_TABLE, 2)][0];
    let mut seen = [0; 14];
    memory.read_exact_at(&mut seen, 0x12345).unwrap();
    assert_eq!(&seen, b"from the guest");

    // Notifications and interrupts pass us by.
    let mut counter = [0; 8];
    let mut kick = &told.files.get_mut(&(SET_VRING_KICK, 1)).unwrap()[0];
    kick.read_exact(&mut counter).unwrap();
    assert_eq!(u64::from_ne_bytes(counter), 1);
    let mut call = &told.files.get_mut(&(SET_VRING_CALL, 1)).unwrap()[0];
    call.write_all(&1u64.to_ne_bytes()).unwrap();
    assert_eq!((drivers[0].interrupts(), drivers[1].interrupts()), (0, 1));
}

#[test]
fn a_stopped_device_goes_on_over_the_same_connection() {
    let (socket, server) = server(Behaviour {
        base: 77,
        ..Behaviour::default()
    });
    let drivers = drivers(Backing::Shared);
    let running = activate(device(socket), &drivers)
        .map_err(|(_, fault)| fault)
        .unwrap();
    let Stopped { device, positions } = running.stop();
    let position = |index| QueuePosition {
        index,
        next_avail: 77,
        next_used: 77,
    };
    assert_eq!(positions, [position(0), position(1)]);

    let queues = drivers.iter().enumerate().map(|(index, driver)| {
        let mut queue = driver.queue(index).unwrap();
        queue.set_position(position(index));
        Some(queue)
    });
    let running = device
        .activate(activation(
            RING_FEATURES,
            &drivers[0].memory,
            queues.collect(),
        ))
        .map_err(|(_, fault)| fault)
        .unwrap();
    drop(running);
    let told = server.join().unwrap();
    assert_eq!(told.count(SET_OWNER), 1);
    assert_eq!(
        told.values(SET_VRING_BASE),
        [(0, 0), (1, 0), (0, 77), (1, 77)]
    );
}

#[test]
fn a_server_that_goes_away_stops_the_device() {
    let (socket, theirs) = UnixStream::pair().unwrap();
    let behaviour = Behaviour::default();
    let server = std::thread::spawn(move || {
        let mut told = Told::default();
        while told.count(SET_VRING_ENABLE) < 2 && speak(&theirs, &behaviour, &mut told).is_some() {}
    });
    let drivers = drivers(Backing::Shared);
    let mut running = activate(device(socket), &drivers)
        .map_err(|(_, fault)| fault)
        .unwrap();
    server.join().unwrap();
    let watches = running.watches();
    assert_eq!(watches.len(), 1);
    assert!(watches[0].readable && watches[0].fd.as_raw_fd() >= 0);
    assert!(matches!(
        running.on_ready(watches[0].token),
        Err(DeviceFault::Host {
            what: "the file server",
            ..
        })
    ));
    // It stops at once, and for good.
    let Stopped { device, positions } = running.stop();
    assert_eq!(positions.len(), 2);
    assert!(activate(device, &drivers).is_err());
}

#[test]
fn a_server_that_lacks_something_is_refused_with_the_reason() {
    let no_event_idx = Behaviour {
        features: (RING_FEATURES | PROTOCOL_FEATURES) & !(1 << 29),
        ..Behaviour::default()
    };
    assert!(fault(no_event_idx, Backing::Shared).contains("it lacks features 0x20000000"));
    let no_acks = Behaviour {
        protocol: 1,
        ..Behaviour::default()
    };
    assert!(fault(no_acks, Backing::Shared).contains("it lacks protocol features 0x8"));
    let one_queue = Behaviour {
        queues: 1,
        ..Behaviour::default()
    };
    assert!(fault(one_queue, Backing::Shared).contains("it has only 1 queues"));
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    for mute in [GET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_ENABLE] {
        let behaviour = Behaviour {
            mute: Some(mute),
            ..Behaviour::default()
        };
        assert!(fault(behaviour, Backing::Shared).contains("set-up of the file server"));
    }
}

#[test]
fn a_server_that_does_not_stop_is_given_up() {
    let (socket, server) = server(Behaviour {
        mute: Some(GET_VRING_BASE),
        ..Behaviour::default()
    });
    let drivers = drivers(Backing::Shared);
    let running = activate(device(socket), &drivers)
        .map_err(|(_, fault)| fault)
        .unwrap();
    let Stopped { device, positions } = running.stop();
    assert_eq!(positions.len(), 2);
    server.join().unwrap();
    assert!(activate(device, &drivers).is_err());
}

#[test]
fn a_server_that_talks_nonsense_is_given_up() {
    for confused in [GET_FEATURES, SET_OWNER, SET_VRING_KICK] {
        let behaviour = Behaviour {
            confused: Some(confused),
            ..Behaviour::default()
        };
        assert!(fault(behaviour, Backing::Shared).contains("set-up of the file server"));
    }
    // A position that no queue can have.
    let (socket, _server) = server(Behaviour {
        base: 65_536,
        ..Behaviour::default()
    });
    let drivers = drivers(Backing::Shared);
    let running = activate(device(socket), &drivers)
        .map_err(|(_, fault)| fault)
        .unwrap();
    let device = running.stop().device;
    assert!(activate(device, &drivers).is_err());
}

#[test]
fn memory_that_cannot_be_shared_is_refused() {
    assert!(fault(Behaviour::default(), Backing::Private).contains("set-up of the file server"));
}

#[test]
fn the_configuration_space_holds_tag_and_queues() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let mut config = [0xee; 41];
    device(socket).config().read(0, &mut config);
    assert_eq!(&config[..8], b"caisson\0");
    assert!(config[8..36].iter().all(|byte| *byte == 0));
    assert_eq!(config[36..], [1, 0, 0, 0, 0]);
}

#[test]
fn tags_that_do_not_fit_are_refused() {
    for (tag, fits) in [
        ("", false),
        ("a\0b", false),
        (&"x".repeat(37), false),
        (&"x".repeat(36), true),
    ] {
        let (socket, _other) = UnixStream::pair().unwrap();
        assert_eq!(FileSystem::new(tag, socket).is_ok(), fits, "{tag:?}");
    }
}
