//! The serial port, an 8250 without input: the guest's console.

use std::io;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::console::Console;

/// First port of COM1.
pub(crate) const FIRST_PORT: u16 = 0x3f8;
/// Last port of COM1.
pub(crate) const LAST_PORT: u16 = FIRST_PORT + 7;
/// Interrupt of COM1.
pub(crate) const INTERRUPT: u32 = 4;

/// An interrupt line as an event descriptor.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The port.
pub(crate) struct SerialPort(Serial<Line, NoEvents, Console>);

impl SerialPort {
    /// Makes a port that writes to `console` and interrupts by signalling `interrupt`.
    pub(crate) fn new(interrupt: EventFd, console: Console) -> Self {
        Self(Serial::new(Line(interrupt), console))
    }

    /// Reads the register at `port`, one from [`FIRST_PORT`] to [`LAST_PORT`].
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        self.0.read(register(port))
    }

    /// Writes the register at `port`.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        // Neither the console nor a non-blocking event descriptor can fail in a way that matters:
        // a full counter is a pending interrupt.
        let _ = self.0.write(register(port), value);
    }
}

fn register(port: u16) -> u8 {
    (port.wrapping_sub(FIRST_PORT) & 7) as u8
}
