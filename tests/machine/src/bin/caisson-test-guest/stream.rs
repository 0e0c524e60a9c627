//! The guest's end of a stream that the host times.

use std::fs::File;
use std::io::{self, Read, Write};

use caisson_machine_tests::Address;
use rustix::net::Shutdown;

use crate::dialer;

/// Bytes of one system call.
const PIECE: usize = 64 * 1024;

/// Sends zeros and waits until the host has taken them all; or takes everything.
///
/// # Errors
/// What the system calls answer.
pub(crate) fn run(address: &Address, send: Option<u64>) -> io::Result<()> {
    let mut connection = dialer::connect(address)?;
    let mut space = vec![0; PIECE];
    if let Some(bytes) = send {
        write_zeros(&mut connection, &space, bytes)?;
        rustix::net::shutdown(&connection, Shutdown::Write)?;
    }
    while connection.read(&mut space)? > 0 {}
    Ok(())
}

fn write_zeros(connection: &mut File, zeros: &[u8], bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let piece = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        connection.write_all(zeros.get(..piece).unwrap_or_default())?;
        left -= piece as u64;
    }
    Ok(())
}
