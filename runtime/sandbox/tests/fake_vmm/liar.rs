//! An agent that answers as no agent would: frames of ttrpc by hand.
//!
//! A frame is its length, the number of its stream, its type and flags, in ten bytes of big-endian
//! numbers, and the rest. An empty answer is one that says "done".

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 3;

/// Field 1 of a response, a status, of which field 1 is the code and field 2 the text.
const STATUS: u8 = 0x0a;
/// Field 2 of a response: the answer itself.
const PAYLOAD: u8 = 0x12;
/// Begin and end of a group with a number that nobody knows.
const GROUP: [u8; 2] = [0xfb, 0x03];

/// Answers each request that comes over `socket` with this lie.
pub(crate) fn serve(socket: OwnedFd, lie: &str) {
    let mut socket = UnixStream::from(socket);
    socket.set_nonblocking(false).unwrap();
    let lie = lie.to_owned();
    // An error means that the sandbox has had enough.
    std::thread::spawn(move || while answer(&mut socket, &lie).is_ok() {});
}

fn answer(socket: &mut UnixStream, lie: &str) -> std::io::Result<()> {
    let mut header = [0; 10];
    socket.read_exact(&mut header)?;
    let [a, b, c, d, e, f, g, h, _, _] = header;
    let length = u32::from_be_bytes([a, b, c, d]);
    let stream = u32::from_be_bytes([e, f, g, h]);
    std::io::copy(&mut socket.take(length.into()), &mut std::io::sink())?;
    let mut send = |bytes: Vec<u8>| socket.write_all(&bytes);
    match lie {
        "answers-nobody" => {
            for other in 0..3000 {
                send(frame(stream + 1 + other, RESPONSE, &[b'x'; 100]))?;
            }
            send(frame(0, RESPONSE, &[]))?;
            send(frame(u32::MAX, RESPONSE, &[]))?;
            send(frame(stream, RESPONSE, &[]))
        }
        "answers-twice" => {
            for _ in 0..1000 {
                send(frame(stream, RESPONSE, &[]))?;
                send(frame(stream, RESPONSE, &[b'x'; 1000]))?;
            }
            Ok(())
        }
        "answers-too-much" => send(frame(stream, RESPONSE, &vec![b'x'; 5 << 20])),
        "answers-with-a-part" => send(frame(stream, DATA, &[])),
        "answers-a-later-call-with-parts" => {
            for _ in 0..3000 {
                send(frame(stream + 2, DATA, &[b'x'; 1000]))?;
            }
            Ok(())
        }
        "answers-with-a-request" => send(frame(stream, REQUEST, &[])),
        "answers-with-another-type" => send(frame(stream, 0x7f, &[])),
        "answers-nonsense" => send(frame(stream, RESPONSE, &[0xff; 100])),
        "answers-inner-nonsense" => send(frame(stream, RESPONSE, &field(PAYLOAD, &[0xff; 100]))),
        "answers-in-depth" => send(frame(stream, RESPONSE, &GROUP.repeat(1 << 20))),
        "answers-in-inner-depth" => {
            let inner = GROUP.repeat(1 << 20);
            send(frame(stream, RESPONSE, &field(PAYLOAD, &inner)))
        }
        "fails-at-length" => {
            let text = "\x1b[2J\n\0no ".repeat(400_000);
            let status = [vec![0x08, 5], field(0x12, text.as_bytes())].concat();
            send(frame(stream, RESPONSE, &field(STATUS, &status)))
        }
        "fails-with-a-strange-code" => {
            let status = [vec![0x08, 0xff, 0xff, 0x03], field(0x12, b"strange")].concat();
            send(frame(stream, RESPONSE, &field(STATUS, &status)))
        }
        "ends-in-a-header" => {
            send(frame(stream, RESPONSE, &[])[..7].to_vec())?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        "ends-in-an-answer" => {
            send(frame(stream, RESPONSE, &[b'x'; 100])[..60].to_vec())?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        "hangs-up" => Err(std::io::ErrorKind::ConnectionAborted.into()),
        lie => panic!("nobody knows how to tell {lie}"),
    }
}

fn frame(stream: u32, kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(content);
    frame
}

/// A field of bytes of a message.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![tag];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(content);
    field
}
