//! One connection, one request.

use std::fs::{self, File};
use std::io::{self, Read, Write};

use caisson_machine_tests::{Comparison, Frame, Pattern, Request};
use rustix::net::Shutdown;
use rustix::system::{RebootCommand, reboot};

use crate::{dialer, disk_timer, driver, interface, program, stream};

/// Reads the request and does what it says.
pub(crate) fn serve(mut connection: &File) {
    let request = match Request::read_from(&mut connection) {
        Ok(request) => request,
        Err(error) => return answer(connection, Err(error)),
    };
    match request {
        // The host sees by the stream whether all has come.
        Request::Echo => drop(io::copy(&mut &*connection, &mut &*connection)),
        Request::Send { seed, bytes } => {
            drop(io::copy(
                &mut Pattern::new(seed).take(bytes),
                &mut connection,
            ));
        }
        Request::Run { argv } => program::run(&argv, connection),
        Request::ReadFile { path } => answer(connection, fs::read(path)),
        Request::WriteFile { path, text } => answer(connection, write_file(&path, &text)),
        Request::WritePattern { path, seed, bytes } => {
            answer(connection, write_pattern(&path, seed, bytes));
        }
        Request::CheckPattern { path, seed, bytes } => {
            answer(connection, check_pattern(&path, seed, bytes));
        }
        Request::Receive { seed, bytes } => {
            let compared = Comparison::of(&mut connection, seed, bytes);
            answer(connection, compared.map(|()| Vec::new()));
        }
        Request::Dial {
            address,
            seed,
            sizes,
        } => answer(connection, dialer::dial(&address, seed, &sizes)),
        Request::TimeDisk {
            path,
            work,
            threads,
            bytes,
        } => {
            let took = disk_timer::time(&path, work, threads, bytes);
            let json = took.and_then(|took| Ok(serde_json::to_vec(&took)?));
            answer(connection, json);
        }
        Request::SetAddress {
            interface,
            address,
            prefix,
        } => {
            let set = interface::set_address(&interface, address, prefix);
            answer(connection, set.map(|()| Vec::new()));
        }
        Request::Stream { address, send } => {
            let result = stream::run(&address, send);
            answer(connection, result.map(|()| Vec::new()));
        }
        Request::Arena => answer(connection, driver::arena()),
        Request::Play { steps } => answer(connection, driver::play(&steps)),
        Request::Played => answer(connection, driver::played()),
        Request::Restart => {
            rustix::fs::sync();
            let result = reboot(RebootCommand::Restart).map_err(io::Error::from);
            answer(connection, result.map(|()| Vec::new()));
        }
        Request::Panic => std::process::exit(1),
    }
    // The host has to see the end now, whoever else has a copy of the connection.
    let _ = rustix::net::shutdown(connection, Shutdown::Both);
}

/// Waits until the host closes its end.
pub(crate) fn drain(mut connection: &File) {
    let _ = io::copy(&mut connection, &mut io::sink());
}

fn answer(mut connection: &File, result: io::Result<Vec<u8>>) {
    let (said, code) = match result {
        Ok(content) => (Frame::Stdout(content), 0),
        Err(error) => (Frame::Stderr(error.to_string().into_bytes()), 1),
    };
    // If the host is gone there is nobody to tell.
    let _ = said
        .write_to(&mut connection)
        .and_then(|()| Frame::Exit(code).write_to(&mut connection));
}

fn write_file(path: &str, text: &str) -> io::Result<Vec<u8>> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(Vec::new())
}

fn write_pattern(path: &str, seed: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    io::copy(&mut Pattern::new(seed).take(bytes), &mut file)?;
    file.sync_all()?;
    Ok(Vec::new())
}

fn check_pattern(path: &str, seed: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?.take(bytes);
    Comparison::of(&mut file, seed, bytes)?;
    Ok(Vec::new())
}

#[cfg(test)]
#[path = "service_test.rs"]
mod tests;
