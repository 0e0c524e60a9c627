//! Programs, with their streams on a connection.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use caisson_machine_tests::Frame;
use rustix::net::Shutdown;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code for a program that cannot be started, as shells have it.
const NOT_FOUND: i32 = 127;

/// Runs a program to its end and until nobody can write to its output any more.
pub(crate) fn run(argv: &[String], connection: &File) {
    let answer = Mutex::new(connection);
    let code = match start(argv) {
        Ok(child) => converse(child, connection, &answer),
        Err(error) => {
            let text = format!("cannot run {}: {error}\n", argv.join(" "));
            send(&answer, &Frame::Stderr(text.into_bytes()));
            NOT_FOUND
        }
    };
    send(&answer, &Frame::Exit(code));
}

fn start(argv: &[String]) -> io::Result<Child> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::Error::other("there is no program"));
    };
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn converse(mut child: Child, mut connection: &File, answer: &Mutex<&File>) -> i32 {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // The program may end first, or close its standard input.
                let _ = io::copy(&mut connection, &mut stdin);
            }
        });
        let outputs = [
            scope.spawn(|| forward(stdout, Frame::Stdout, answer)),
            scope.spawn(|| forward(stderr, Frame::Stderr, answer)),
        ];
        let status = child.wait();
        for output in outputs {
            // A panic there would only mean less output.
            let _ = output.join();
        }
        // No more input is wanted: that ends the first thread, if the host has not.
        let _ = rustix::net::shutdown(connection, Shutdown::Read);
        status.map_or(NOT_FOUND, code)
    })
}

fn forward<T: Read>(source: Option<T>, frame: fn(Vec<u8>) -> Frame, answer: &Mutex<&File>) {
    let Some(mut source) = source else { return };
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        send(
            answer,
            &frame(buffer.get(..count).unwrap_or_default().to_vec()),
        );
    }
}

fn send(answer: &Mutex<&File>, frame: &Frame) {
    let mut connection = *answer.lock().unwrap_or_else(PoisonError::into_inner);
    // If the host is gone the program runs on without.
    let _ = frame
        .write_to(&mut connection)
        .and_then(|()| connection.flush());
}

fn code(status: ExitStatus) -> i32 {
    let signal = || 128 + status.signal().unwrap_or(0);
    status.code().unwrap_or_else(signal)
}
