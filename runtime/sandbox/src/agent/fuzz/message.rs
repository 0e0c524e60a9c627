//! Frames of ttrpc and messages of protobuf, right and wrong.

use caisson_protocol::agent::{
    AddDiskResponse, CpuStat, DiskNumber, IoStat, ListProcessesResponse, MemoryStat,
    ProcessResponse, StatsResponse, WaitResponse,
};
use protobuf::Message;
use ttrpc::{Code, Response, Status};

use super::Random;

/// The type of a frame that is an answer.
pub(super) const ANSWER: u8 = 2;

/// A frame: its length, stream, type and flags, and what it holds.
pub(super) fn frame(stream: u32, kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    framed(length, stream, kind, flags, content)
}

/// A frame that says that its length is `length`.
pub(super) fn framed(length: u32, stream: u32, kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, flags]);
    frame.extend(content);
    frame
}

/// An answer as an agent could give it, in which perhaps a byte is changed.
pub(super) fn answer(random: &mut Random) -> Vec<u8> {
    let mut response = Response::new();
    match random.below(8) {
        0 => {}
        1 | 2 => {
            let mut status = Status::new();
            status.set_code(random.pick(&[
                Code::OK,
                Code::NOT_FOUND,
                Code::NOT_FOUND,
                Code::INTERNAL,
                Code::UNAVAILABLE,
            ]));
            let text = random.pick(&["no such thing", "\x1b[2J\n\0", "\u{202e}ok", ""]);
            status.set_message(text.repeat(random.pick(&[1, 1, 1, 1, 500, 20_000])));
            response.set_status(status);
        }
        _ => response.payload = payload(random),
    }
    let mut bytes = response.write_to_bytes().unwrap();
    for _ in 0..random.pick(&[0, 0, 0, 0, 0, 0, 0, 3]) {
        if !bytes.is_empty() {
            let at = random.index(bytes.len());
            bytes[at] = random.next() as u8;
        }
    }
    bytes
}

fn payload(random: &mut Random) -> Vec<u8> {
    let message: Box<dyn protobuf::MessageDyn> = match random.below(6) {
        0 => Box::new(WaitResponse {
            exit_status: random.number() as u32,
            exited_at_ns: random.number() as i64,
            oom_killed: random.one_in(2),
            ..Default::default()
        }),
        1 => {
            let count = random.pick(&[0, 3, 3, 3, 100, 100, 1000, 500_000]);
            Box::new(ListProcessesResponse {
                pids: vec![random.number() as u32; count],
                ..Default::default()
            })
        }
        2 => {
            let disk = DiskNumber {
                major: random.number() as u32,
                minor: random.number() as u32,
                ..Default::default()
            };
            let count = random.pick(&[0, 1, 1, 128, 100_000]);
            Box::new(AddDiskResponse {
                disks: vec![disk; count],
                ..Default::default()
            })
        }
        3 => Box::new(ProcessResponse {
            pid: random.number() as u32,
            ..Default::default()
        }),
        4 => Box::new(stats(random)),
        _ if random.one_in(4) => return nonsense(random),
        _ => return Vec::new(),
    };
    message.write_to_bytes_dyn().unwrap()
}

fn stats(random: &mut Random) -> StatsResponse {
    let mut memory = MemoryStat {
        usage: random.number(),
        ..Default::default()
    };
    for _ in 0..random.below(20) {
        let name = format!("{:x}", random.next());
        memory.stat.insert(name, random.number());
    }
    // An empty one takes two bytes here, and many more when it is decoded.
    let devices = random.pick(&[0, 2, 2, 2, 2, 100, 100, 500_000]);
    StatsResponse {
        cpu: Some(CpuStat {
            usage_usec: random.number(),
            ..Default::default()
        })
        .into(),
        memory: Some(memory).into(),
        io: vec![IoStat::new(); devices],
        ..Default::default()
    }
}

/// Bytes that look like fields of a message, or like nothing.
pub(super) fn nonsense(random: &mut Random) -> Vec<u8> {
    if random.one_in(4) {
        let length = random.index(200);
        return random.bytes(length);
    }
    let mut bytes = Vec::new();
    for _ in 0..random.below(12) {
        let number = match random.below(4) {
            0 => random.number() >> 4,
            _ => 1 + random.below(8),
        };
        let kind = random.below(8);
        number_of(&mut bytes, number << 3 | kind);
        match kind {
            0 => number_of(&mut bytes, random.number()),
            2 => {
                let content = match bytes.len() {
                    ..300 if random.one_in(2) => nonsense(random),
                    _ => {
                        let length = random.index(20);
                        random.bytes(length)
                    }
                };
                let told = match random.below(10) {
                    0 => random.number(),
                    _ => content.len() as u64,
                };
                number_of(&mut bytes, told);
                bytes.extend(content);
            }
            1 => bytes.extend(random.bytes(8)),
            5 => bytes.extend(random.bytes(4)),
            _ => {}
        }
    }
    bytes
}

/// Groups or messages in one another, or as many numbers of fields as fit.
pub(super) fn depth(random: &mut Random) -> Vec<u8> {
    let times = random.pick(&[10, 99, 101, 1000, 400_000]);
    let opening = match random.below(3) {
        // A group with a number that nobody knows, and one of the answer's own.
        0 => vec![0xfb, 0x03],
        1 => vec![0x13],
        _ => {
            let mut fields = Vec::new();
            for number in 0..times.min(10_000) as u64 {
                number_of(&mut fields, (number + 100) << 3);
                fields.push(1);
            }
            return fields;
        }
    };
    opening.repeat(times)
}

/// A number as protobuf writes it.
fn number_of(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
