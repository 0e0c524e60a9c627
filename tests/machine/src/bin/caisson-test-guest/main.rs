//! The test guest: the first program of a guest whose VMM is tested.
//!
//! It makes the outer machine's root its own, tells the host that it is there, and does what
//! [`Request`](caisson_machine_tests::Request)s ask for, each in a thread of its own. Without the
//! root's file server it stays where it is and does what needs no other program.

mod dialer;
mod disk_timer;
mod driver;
mod interface;
mod program;
mod root;
mod service;
mod stream;

use std::io;
use std::process::ExitCode;
use std::thread;

use caisson_machine_tests::{HELLO_PORT, SERVICE_PORT, vsock};

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("caisson-test-guest is the first program of a guest; it does nothing elsewhere");
        return ExitCode::from(2);
    }
    // The kernel panics when its first program ends, and the host is told why on the console.
    if let Err(error) = serve() {
        eprintln!("caisson-test-guest: {error}");
    }
    ExitCode::FAILURE
}

fn serve() -> io::Result<()> {
    root::prepare()?;
    let listener = vsock::listen(SERVICE_PORT)?;
    // Open until the host has noticed: it closes its end.
    let hello = vsock::connect(vsock::HOST, HELLO_PORT)?;
    thread::spawn(move || service::drain(&hello));
    loop {
        let connection = vsock::accept(&listener)?;
        thread::spawn(move || service::serve(&connection));
    }
}
