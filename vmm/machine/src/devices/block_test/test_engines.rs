//! Engines that show what a disk seldom does.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::block::disk::Disk;
use crate::devices::block::engine::plain::Plain;
use crate::devices::block::engine::{CAPACITY, Call, Done, Engine, Tag};

/// Makes no call until it is waited for.
pub(super) struct Patient {
    plain: Plain,
    waiting: Vec<(Tag, Call)>,
}

pub(super) fn patient(disk: &Arc<Disk>) -> Box<dyn Engine> {
    Box::new(Patient {
        plain: Plain::new(disk),
        waiting: Vec::new(),
    })
}

impl Engine for Patient {
    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        self.waiting.push((tag, call));
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_done(&mut self) -> Option<Done> {
        self.plain.turn();
        self.plain.take_done()
    }

    /// Makes one call, the last that came.
    fn wait(&mut self) -> io::Result<()> {
        match self.waiting.pop() {
            Some((tag, call)) => self.plain.start(tag, call),
            None => Ok(()),
        }
    }

    fn completions(&self) -> Option<RawFd> {
        None
    }
}

/// Makes one call each time the device is called, so that it has others left.
pub(super) struct Slow {
    patient: Patient,
    /// Readable all the time.
    always: EventFd,
    rests: bool,
}

pub(super) fn slow(disk: &Arc<Disk>) -> Box<dyn Engine> {
    let patient = Patient {
        plain: Plain::new(disk),
        waiting: Vec::new(),
    };
    Box::new(Slow {
        patient,
        always: EventFd::new(EFD_NONBLOCK).unwrap(),
        rests: false,
    })
}

impl Engine for Slow {
    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        self.patient.start(tag, call)?;
        assert!(self.patient.waiting.len() <= CAPACITY);
        self.always.write(1)
    }

    /// The device comes again after every call that is done, and gets no second one.
    fn submit(&mut self) -> io::Result<()> {
        self.rests = !self.rests;
        match self.rests {
            true => self.patient.wait(),
            false => Ok(()),
        }
    }

    fn take_done(&mut self) -> Option<Done> {
        self.patient.take_done()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.patient.wait()
    }

    fn completions(&self) -> Option<RawFd> {
        Some(self.always.as_raw_fd())
    }
}

/// Loses every call.
struct Lost;

pub(super) fn lost(_: &Arc<Disk>) -> Box<dyn Engine> {
    Box::new(Lost)
}

impl Engine for Lost {
    fn start(&mut self, _: Tag, _: Call) -> io::Result<()> {
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_done(&mut self) -> Option<Done> {
        None
    }

    fn wait(&mut self) -> io::Result<()> {
        Err(io::Error::other("lost"))
    }

    fn completions(&self) -> Option<RawFd> {
        None
    }
}

/// Transfers at most 700 bytes at a time, is interrupted every other time, and cannot make zeroes
/// or holes.
pub(super) struct Clumsy {
    plain: Plain,
    /// Whether it only cannot make zeroes.
    is_able: bool,
    interrupted: bool,
    done: Option<Done>,
}

/// Makes every call but those for zeroes and holes.
pub(super) fn no_clearing(disk: &Arc<Disk>) -> Box<dyn Engine> {
    Box::new(Clumsy {
        plain: Plain::new(disk),
        is_able: true,
        interrupted: false,
        done: None,
    })
}

pub(super) fn clumsy(disk: &Arc<Disk>) -> Box<dyn Engine> {
    Box::new(Clumsy {
        plain: Plain::new(disk),
        is_able: false,
        interrupted: false,
        done: None,
    })
}

impl Engine for Clumsy {
    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        if self.is_able && !matches!(call, Call::Clear(..)) {
            self.plain.turn();
            self.plain.start(tag, call)?;
            self.done = self.plain.take_done();
            return Ok(());
        }
        self.interrupted = !self.interrupted;
        let result = if self.interrupted {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            match &call {
                Call::Read { offset, into } => {
                    let into = into.front(700);
                    let offset = *offset;
                    self.make(tag, Call::Read { offset, into })
                }
                Call::Write {
                    offset,
                    from,
                    durability,
                } => {
                    let (from, offset, durability) = (from.front(700), *offset, *durability);
                    self.make(
                        tag,
                        Call::Write {
                            offset,
                            from,
                            durability,
                        },
                    )
                }
                Call::Clear(..) => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
                Call::Sync => Ok(0),
            }
        };
        assert!(self.done.is_none(), "one call at a time");
        self.done = Some(Done { tag, call, result });
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_done(&mut self) -> Option<Done> {
        self.done.take()
    }

    fn wait(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn completions(&self) -> Option<RawFd> {
        None
    }
}

impl Clumsy {
    fn make(&mut self, tag: Tag, call: Call) -> io::Result<usize> {
        self.plain.turn();
        self.plain.start(tag, call)?;
        self.plain.take_done().unwrap().result
    }
}

/// Writes down which calls are asked for, and makes them.
pub(super) struct Recorder(Plain);

/// The kinds of calls on this thread.
pub(super) fn recorded() -> Vec<&'static str> {
    RECORD.with_borrow_mut(std::mem::take)
}

thread_local! {
    static RECORD: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) };
}

pub(super) fn recorder(disk: &Arc<Disk>) -> Box<dyn Engine> {
    RECORD.with_borrow_mut(Vec::clear);
    Box::new(Recorder(Plain::new(disk)))
}

impl Engine for Recorder {
    fn turn(&mut self) {
        self.0.turn();
    }

    fn wants_turn(&self) -> bool {
        self.0.wants_turn()
    }

    fn start(&mut self, tag: Tag, call: Call) -> io::Result<()> {
        use crate::devices::block::engine::Clearing;
        use crate::devices::block::vectors::Durability;
        let name = match &call {
            Call::Read { .. } => "read",
            Call::Write {
                durability: Durability::Volatile,
                ..
            } => "write",
            Call::Write { .. } => "stable write",
            Call::Sync => "sync",
            Call::Clear(Clearing::Punch, _) => "punch",
            Call::Clear(Clearing::Zero, _) => "zero",
        };
        RECORD.with_borrow_mut(|record| record.push(name));
        self.0.start(tag, call)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.0.submit()
    }

    fn take_done(&mut self) -> Option<Done> {
        self.0.take_done()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.0.wait()
    }

    fn completions(&self) -> Option<RawFd> {
        self.0.completions()
    }
}
