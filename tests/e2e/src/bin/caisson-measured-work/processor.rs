//! The processor, memory, and what a program asks of its kernel.

use std::hint::black_box;
use std::io::{Read, Write, pipe};
use std::process::{Command, Stdio};

use crate::rows::{Rows, mixed};

/// How this program is asked to end at once, and to send back every byte that comes.
pub(crate) const NOTHING: &str = "-nothing";
pub(crate) const ECHO: &str = "-echo";

const STEPS: u64 = 30_000_000;
const MIB: usize = 1 << 20;
/// Of fresh memory.
const SIZE: usize = 64 * MIB;
const PAGE: usize = 4096;
const CALLS: usize = 100_000;
const BYTES: usize = 30_000;
const SWITCHES: usize = 4_000;
const STARTS: usize = 40;

pub(crate) fn work(rows: &Rows) {
    rows.row("arithmetic", || {
        let sum = (0..STEPS).fold(0_u64, |sum, number| sum.wrapping_add(mixed(number)));
        black_box(sum);
    });
    rows.row("64 MiB of fresh memory", || {
        // The allocator asks the kernel for it, which has it filled with zeros at the first touch.
        let mut memory = vec![0_u8; SIZE];
        for byte in memory.iter_mut().step_by(PAGE) {
            *byte = 1;
        }
        black_box(&memory);
    });
    rows.row("100,000 system calls (getppid)", || {
        for _ in 0..CALLS {
            black_box(std::os::unix::process::parent_id());
        }
    });
    rows.row("30,000 bytes through a pipe", || {
        let (mut reader, mut writer) = pipe().expect("a pipe");
        let mut byte = [0];
        for _ in 0..BYTES {
            writer.write_all(&byte).expect("a pipe can be written");
            reader.read_exact(&mut byte).expect("a byte is there");
        }
    });
    let switched = "4,000 round trips between two processes";
    if rows.wants(&[switched]) {
        let mut echo = this_program(ECHO);
        let echo = echo.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut echo = echo.spawn().expect("this program can be started");
        let mut to = echo.stdin.take().expect("it is a pipe");
        let mut from = echo.stdout.take().expect("it is a pipe");
        rows.row(switched, || {
            let mut byte = [0];
            for _ in 0..SWITCHES {
                to.write_all(&byte).expect("it reads");
                from.read_exact(&mut byte).expect("it writes");
            }
        });
        drop(to);
        let _ = echo.wait();
    }
    rows.row("40 programs started, to their end", || {
        for _ in 0..STARTS {
            let status = this_program(NOTHING).status();
            assert!(status.expect("this program can be started").success());
        }
    });
}

/// Sends back what comes, byte by byte.
pub(crate) fn echo() {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut byte = [0];
    while input.read_exact(&mut byte).is_ok() {
        let sent = output.write_all(&byte).and_then(|()| output.flush());
        sent.expect("somebody waits for it");
    }
}

fn this_program(argument: &str) -> Command {
    let program = std::env::current_exe().expect("a program knows its own file");
    let mut command = Command::new(program);
    command.arg(argument);
    command
}
