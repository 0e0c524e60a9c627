//! The host's end of the networks: takes what comes, gives what is read, or sends it back.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

pub(crate) const PORT: u16 = 7010;

const BLOCK: usize = 64 << 10;

/// What a connection is for, by its first byte.
const TAKE: u8 = b't';
const GIVE: u8 = b'g';

/// Answers whoever connects, as long as this program runs.
pub(crate) fn listen() {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who is gone needs no answer.
            thread::spawn(move || drop(answer(stream)));
        }
    });
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    let mut block = vec![0; BLOCK];
    match what {
        [TAKE] => {
            while stream.read(&mut block)? > 0 {}
            stream.write_all(&what)
        }
        [GIVE] => loop {
            stream.write_all(&block)?;
        },
        _ => {
            let mut byte = [0];
            loop {
                stream.read_exact(&mut byte)?;
                stream.write_all(&byte)?;
            }
        }
    }
}
