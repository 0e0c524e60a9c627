//! TCP to the host's end of the pod's network, where `caisson-measure` answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::rows::Rows;

const SIZE: usize = 32 << 20;
const BLOCK: usize = 64 << 10;
const TRIPS: usize = 500;
const CONNECTIONS: usize = 150;

/// What the other end is to do, by the first byte that it gets.
const TAKE: u8 = b't';
const GIVE: u8 = b'g';
const ECHO: u8 = b'e';

pub(crate) fn work(rows: &Rows, address: &str) {
    let connect = |what: u8| {
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        let options = stream.set_nodelay(true);
        let sent = options.and_then(|()| stream.write_all(&[what]));
        sent.expect("it is connected");
        stream
    };
    let mut byte = [0];
    rows.row("32 MiB to the host", || {
        let mut stream = connect(TAKE);
        let block = vec![0x5a; BLOCK];
        for _ in 0..SIZE / BLOCK {
            stream.write_all(&block).expect("somebody reads");
        }
        // All of it has come when there is an answer.
        stream.shutdown(Shutdown::Write).expect("it is connected");
        stream.read_exact(&mut byte).expect("somebody answers");
    });
    rows.row("32 MiB from the host", || {
        let mut stream = connect(GIVE);
        let mut block = vec![0; BLOCK];
        let mut left = SIZE;
        while left > 0 {
            let read = stream.read(&mut block).expect("somebody writes");
            assert!(read > 0, "{left} bytes are missing");
            // More may have come: the other end gives without an end.
            left = left.saturating_sub(read);
        }
    });
    let trips = "500 round trips of a byte";
    if rows.wants(&[trips]) {
        let mut stream = connect(ECHO);
        rows.row(trips, || {
            for _ in 0..TRIPS {
                let sent = stream.write_all(&byte);
                sent.and_then(|()| stream.read_exact(&mut byte))
                    .expect("somebody answers");
            }
        });
    }
    rows.row("150 connections, with a byte each way", || {
        for _ in 0..CONNECTIONS {
            let mut stream = connect(ECHO);
            let sent = stream.write_all(&byte);
            sent.and_then(|()| stream.read_exact(&mut byte))
                .expect("somebody answers");
        }
    });
}
