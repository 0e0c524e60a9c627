//! A person at a terminal.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// When nothing shows for this long, a change of the size is told again.
const AGAIN: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};
/// So often in a row, after which nothing will show any more: ten minutes, as everything is slow in
/// emulation.
const TIMES: u32 = 300;

/// A program running on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    screen: File,
    program: Child,
    seen: String,
    resized: bool,
}

impl Terminal {
    /// Runs PROGRAM on a new terminal of the given size.
    ///
    /// # Panics
    /// Panics when it cannot be started.
    #[must_use]
    pub fn run(program: &str, args: &[&str], rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal can be made");
        grantpt(&master).expect("a terminal can be made");
        unlockpt(&master).expect("a terminal can be made");
        set_size(master.as_fd(), rows, columns);
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name");
        // Without NOCTTY it would become this process's controlling terminal, and its end our own.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave: OwnedFd = open(name, flags, Mode::empty()).expect("a terminal opens");
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::from(
                slave.try_clone().expect("descriptors are left"),
            ))
            .stdout(Stdio::from(
                slave.try_clone().expect("descriptors are left"),
            ))
            .stderr(Stdio::from(slave));
        own_session(&mut command);
        let program = command.spawn().expect("the program starts");
        Self {
            screen: File::from(master),
            program,
            seen: String::new(),
            resized: false,
        }
    }

    /// Types `text`.
    ///
    /// # Panics
    /// Panics when the terminal is gone.
    pub fn types(&mut self, text: &str) {
        self.screen
            .write_all(text.as_bytes())
            .expect("the terminal takes input");
    }

    /// Changes the size of the terminal, as dragging a window's corner does.
    ///
    /// `ctr` asks for the size first and listens for changes a moment later, so a change in between
    /// goes unheard; a person would drag once more, and so does [`Terminal::shows`].
    pub fn resize(&mut self, rows: u16, columns: u16) {
        set_size(self.screen.as_fd(), rows, columns);
        self.resized = true;
    }

    /// Waits until `text` has appeared after what was waited for before.
    ///
    /// # Panics
    /// Panics when the program ends first, or nothing shows any more.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(
                self.moves(),
                "the terminal stands still; instead of {text:?} it shows {:?}",
                self.seen
            );
            match self.screen.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.seen.push_str(&String::from_utf8_lossy(bytes));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => panic!(
                    "the terminal closed; instead of {text:?} it shows {:?}",
                    self.seen
                ),
            }
        }
    }

    /// Waits until something is written to the terminal; false when nothing will be any more.
    fn moves(&self) -> bool {
        for _ in 0..TIMES {
            let mut fds = [PollFd::new(&self.screen, PollFlags::IN)];
            // An interrupted wait is as good as one that ends without anything.
            if poll(&mut fds, Some(&AGAIN)).is_ok_and(|ready| ready > 0) {
                return true;
            }
            if self.resized {
                // It may have ended, of which the next wait tells.
                let _ = kill_process(Pid::from_child(&self.program), Signal::WINCH);
            }
        }
        false
    }

    /// Waits for the program's end and gives its exit code.
    ///
    /// # Panics
    /// Panics when it was ended by a signal.
    pub fn exit_code(mut self) -> i32 {
        let mut buffer = [0; 4096];
        // A reader that stops would block the program; the read fails when the last writer is gone.
        while matches!(self.screen.read(&mut buffer), Ok(count) if count > 0) {}
        self.program
            .wait()
            .expect("the program ends")
            .code()
            .expect("it exits by itself")
    }
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

/// Makes the terminal on standard input the controlling one, so that its signals arrive.
#[allow(unsafe_code)]
fn own_session(command: &mut Command) {
    let become_leader = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes two system calls.
    unsafe { command.pre_exec(become_leader) };
}
