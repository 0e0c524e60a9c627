//! Where the guest's console output goes: to a file, if there is one, and into a short memory of the
//! last lines, which is reported when the machine ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

/// Bytes remembered.
const TAIL_LENGTH: usize = 4096;

/// What Linux writes when it panics.
const PANIC_LINE: &[u8] = b"Kernel panic - not syncing";

/// The last bytes of the output, and whether a panic was among all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    last: VecDeque<u8>,
    /// Bytes of [`PANIC_LINE`] that have just been written, all of them once they were.
    panic: usize,
}

impl Tail {
    /// The last bytes as text of at most 4 KiB. Guest data: to be shown, not to be acted upon.
    pub(crate) fn text(&self) -> String {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from_utf8_lossy(remembered.last.make_contiguous()).into_owned();
        // A replacement character is longer than the byte it stands for.
        let surplus = text.len().saturating_sub(TAIL_LENGTH);
        let start = (surplus..=text.len())
            .find(|start| text.is_char_boundary(*start))
            .unwrap_or(0);
        text.drain(..start);
        text
    }

    /// Whether the guest's kernel said that it panicked, however much it said after that.
    pub(crate) fn shows_panic(&self) -> bool {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.panic == PANIC_LINE.len()
    }

    fn push(&self, added: &[u8]) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { last, panic } = &mut *remembered;
        for byte in added {
            if last.len() >= TAIL_LENGTH {
                last.pop_front();
            }
            last.push_back(*byte);
            // Only its first letter is where it can begin anew.
            match PANIC_LINE.get(*panic) {
                Some(next) if next == byte => *panic += 1,
                Some(_) => *panic = usize::from(PANIC_LINE.first() == Some(byte)),
                None => {}
            }
        }
    }
}

/// Takes the output of the serial port and of the console device. Clones write to the same file.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    file: Option<Arc<File>>,
    tail: Tail,
}

impl Console {
    /// Writes to `file`, which is made non-blocking, and remembers the end in `tail`.
    ///
    /// # Errors
    /// Fails when `file` is not open for writing.
    pub(crate) fn new(file: Option<File>, tail: Tail) -> io::Result<Self> {
        if let Some(file) = &file {
            let flags = rustix::fs::fcntl_getfl(file)?;
            if flags & OFlags::RWMODE == OFlags::RDONLY {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK)?;
        }
        let file = file.map(Arc::new);
        Ok(Self { file, tail })
    }

    /// Writes `bytes`, without waiting: what the file does not take is dropped, because the guest
    /// must not wait for whoever reads its console.
    pub(crate) fn put(&self, bytes: &[u8]) {
        self.tail.push(bytes);
        if let Some(file) = &self.file {
            let _ = (&**file).write(bytes);
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
