//! Packets of the socket device that nobody should send (virtio 1.3 §5.10.6).
//!
//! It is the device by which the test speaks with the guest, so each play takes it away and gives it
//! back.

use caisson_machine_tests::{GUEST_CID, Step, TestMachine};

use super::attacker::Attacker;
use super::driver::{BUFFERS, Descriptor, Driver, SIZE, WRITE};

/// The queues.
const RX: u16 = 0;
const TX: u16 = 1;
const EVENTS: u16 = 2;
/// Bytes of a header, and where its fields are.
const HEADER: u32 = 44;
const SOURCE_PORT: u32 = 16;
const OP: u32 = 30;
/// Where the guest's packets are in the arena, and where those of the host go.
const SENT: u32 = BUFFERS;
const RECEIVED: u32 = BUFFERS + 0x4_0000;
/// How far apart buffers for received packets are.
const ROOM: u32 = 4096;

const HOST: u64 = 2;
const GUEST: u64 = GUEST_CID as u64;
const STREAM: u16 = 1;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// A header; by default of a well-formed request to connect.
#[derive(Debug, Clone, Copy)]
struct Packet {
    cids: (u64, u64),
    ports: (u32, u32),
    length: u32,
    kind: u16,
    op: u16,
    flags: u32,
    credit: (u32, u32),
}

impl Packet {
    fn new(op: u16) -> Self {
        Self {
            cids: (GUEST, HOST),
            ports: (100, 4000),
            length: 0,
            kind: STREAM,
            op,
            flags: 0,
            credit: (u32::MAX, 0),
        }
    }

    fn bytes(self) -> Vec<u8> {
        let words = [self.ports.0, self.ports.1, self.length];
        let halves = [self.kind, self.op];
        let last = [self.flags, self.credit.0, self.credit.1];
        let cids = [self.cids.0, self.cids.1];
        let mut bytes: Vec<u8> = cids.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(halves.into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(last.into_iter().flat_map(u32::to_le_bytes));
        bytes
    }
}

/// Starts the device with room for the host's packets.
fn start(driver: &Driver) -> Vec<Step> {
    let mut steps = driver.start();
    let buffers: Vec<_> = (0..u32::from(SIZE))
        .map(|index| {
            let at = driver.address(RECEIVED + index * ROOM);
            Descriptor::new(at, ROOM, WRITE, 0)
        })
        .collect();
    let heads: Vec<u16> = (0..SIZE).collect();
    steps.push(Driver::describe(RX, &buffers));
    steps.push(Driver::offer(RX, SIZE, &heads));
    steps.extend(driver.notify(RX));
    steps
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn packets_that_are_forged_or_never_end_are_answered_or_dropped() {
    let mut attacker = Attacker::boot(TestMachine::builder().vcpus(2));
    attacker.begin();
    let vsock = attacker.driver("vsock");
    forged(&attacker, &vsock);
    on_a_connection(&attacker, &vsock);
    malformed(&attacker, &vsock);
    a_flood(&attacker, &vsock);
    attacker.finish();
}

/// Each is answered with a reset, whoever it says that it is from.
fn forged(attacker: &Attacker, vsock: &Driver) {
    let one = Packet::new;
    let packets = [
        // From and to others, of another kind, and of no kind.
        Packet {
            cids: (HOST, HOST),
            ..one(REQUEST)
        },
        Packet {
            cids: (0, HOST),
            ..one(REQUEST)
        },
        Packet {
            cids: (GUEST + 1, HOST),
            ..one(REQUEST)
        },
        Packet {
            cids: (u64::MAX, HOST),
            ..one(RW)
        },
        Packet {
            cids: (GUEST | 1 << 32, HOST),
            ..one(REQUEST)
        },
        Packet {
            cids: (GUEST, GUEST),
            ..one(REQUEST)
        },
        Packet {
            cids: (GUEST, 1),
            ..one(REQUEST)
        },
        Packet {
            cids: (GUEST, u64::MAX),
            ..one(REQUEST)
        },
        Packet {
            kind: 0,
            ..one(REQUEST)
        },
        Packet {
            kind: 2,
            ..one(REQUEST)
        },
        Packet {
            kind: u16::MAX,
            ..one(RW)
        },
        // Of connections that are none.
        one(0),
        one(RESPONSE),
        Packet {
            flags: u32::MAX,
            ..one(SHUTDOWN)
        },
        one(RW),
        Packet {
            credit: (0, u32::MAX),
            ..one(CREDIT_UPDATE)
        },
        one(CREDIT_REQUEST),
        one(8),
        one(u16::MAX),
        // In the name of the connection by which the host speaks with the guest.
        Packet {
            ports: (5000, 1 << 30),
            ..one(RESPONSE)
        },
        Packet {
            ports: (5000, 1 << 30),
            ..one(RW)
        },
    ];
    let mut steps = vec![vsock.seize()];
    for packet in packets {
        let [_, _, used] = Driver::places(RX);
        steps.extend(start(vsock));
        steps.push(Step::Put {
            at: RECEIVED + OP,
            bytes: vec![0xff; 2],
        });
        steps.extend(vsock.request(TX, &packet.bytes(), &[]));
        steps.push(Driver::until_served(TX));
        // One packet comes back.
        steps.push(Step::Put {
            at: BUFFERS + 0x3_0000,
            bytes: vec![1, 0],
        });
        steps.push(Step::Equal {
            at: used + 2,
            other: BUFFERS + 0x3_0000,
        });
        steps.push(Step::Get {
            at: RECEIVED + OP,
            width: 2,
        });
    }
    steps.push(vsock.release());
    let answers = attacker.play_unheard(steps);
    assert_eq!(answers, vec![u64::from(RST); packets.len()]);
}

/// A connection on which the guest says what it likes: of its buffer, of what it has read, of its
/// end, and of itself.
fn on_a_connection(attacker: &Attacker, vsock: &Driver) {
    let one = Packet::new;
    let packets = [
        Packet {
            credit: (0, u32::MAX),
            ..one(CREDIT_UPDATE)
        },
        Packet {
            credit: (1, 0),
            ..one(CREDIT_UPDATE)
        },
        Packet {
            credit: (u32::MAX, 1 << 31),
            ..one(CREDIT_UPDATE)
        },
        one(CREDIT_REQUEST),
        one(REQUEST),
        one(RESPONSE),
        Packet {
            flags: 0,
            ..one(SHUTDOWN)
        },
        Packet {
            flags: u32::MAX,
            ..one(SHUTDOWN)
        },
        one(0),
        one(u16::MAX),
        one(RST),
        one(RST),
    ];
    let mut steps = vec![vsock.seize()];
    for packet in packets {
        steps.extend(start(vsock));
        steps.extend(vsock.request(TX, &one(REQUEST).bytes(), &[]));
        steps.push(Driver::until_served(TX));
        steps.push(Step::Put {
            at: SENT,
            bytes: packet.bytes(),
        });
        // A ring full of it, and another.
        for index in [SIZE, 2 * SIZE] {
            steps.push(Driver::offer(TX, index, &[0; SIZE as usize]));
            steps.extend(vsock.notify(TX));
            steps.push(Driver::until_served(TX));
        }
    }
    steps.push(vsock.release());
    attacker.play_unheard(steps);
}

/// Chains that are no packets stop the device. Its kernel's driver resets it.
fn malformed(attacker: &Attacker, vsock: &Driver) {
    let before = attacker.faults(vsock.slot);
    let short = Packet {
        length: 1,
        ..Packet::new(RW)
    }
    .bytes();
    let long = Packet {
        length: u32::MAX,
        ..Packet::new(RW)
    }
    .bytes();
    let header = Packet::new(REQUEST).bytes();
    let mut faults = 0;
    let mut steps = vec![vsock.seize()];
    for content in [&short, &long, &header[..43].to_vec(), &vec![0]] {
        steps.extend(start(vsock));
        steps.extend(vsock.request(TX, content, &[]));
        steps.push(vsock.until_it_stops());
        faults += 1;
    }
    // Nothing to read at all.
    steps.extend(start(vsock));
    steps.extend(vsock.request(TX, &[], &[ROOM]));
    steps.push(vsock.until_it_stops());
    faults += 1;
    // Room for the host's packets that is none: too short for a header, empty, to read only.
    for (length, flags) in [(HEADER - 1, WRITE), (0, WRITE), (ROOM, 0)] {
        steps.extend(vsock.start());
        let room = Descriptor::new(vsock.address(RECEIVED), length, flags, 0);
        for queue in [RX, EVENTS] {
            steps.push(Driver::describe(queue, &[room]));
            steps.push(Driver::offer(queue, 1, &[0]));
            steps.extend(vsock.notify(queue));
        }
        // Answered with a reset, for which there is no room.
        let forged = Packet {
            cids: (HOST, HOST),
            ..Packet::new(REQUEST)
        };
        steps.extend(vsock.request(TX, &forged.bytes(), &[]));
        steps.push(vsock.until_it_stops());
        faults += 1;
    }
    steps.push(vsock.release());
    attacker.play_unheard(steps);
    assert_eq!(attacker.faults(vsock.slot) - before, faults);
}

/// Requests to connect without end, of which nobody takes the answers.
fn a_flood(attacker: &Attacker, vsock: &Driver) {
    const ROUNDS: u32 = 200;
    let mut steps = vec![vsock.seize()];
    steps.extend(start(vsock));
    let mut descriptors = Vec::new();
    for index in 0..u32::from(SIZE) {
        let at = SENT + index * 64;
        let ports = (100_000 + index, 4000 + index);
        steps.push(Step::Put {
            at,
            bytes: Packet {
                ports,
                ..Packet::new(REQUEST)
            }
            .bytes(),
        });
        descriptors.push(Descriptor::new(vsock.address(at), HEADER, 0, 0));
    }
    let heads: Vec<u16> = (0..SIZE).collect();
    let [_, available, _] = Driver::places(TX);
    steps.push(Driver::describe(TX, &descriptors));
    steps.push(Driver::offer(TX, 0, &heads));
    let mut round = vec![Step::Add {
        at: available + 2,
        width: 2,
        by: SIZE.into(),
    }];
    round.extend(vsock.notify(TX));
    round.push(Driver::until_served(TX));
    // The next ones come from other ports.
    round.extend((0..u32::from(SIZE)).map(|index| Step::Add {
        at: SENT + index * 64 + SOURCE_PORT,
        width: 4,
        by: SIZE.into(),
    }));
    steps.push(Step::Repeat {
        times: ROUNDS,
        steps: round,
    });
    steps.push(vsock.release());
    attacker.play_unheard(steps);
}
