//! The terminal this process was started from.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::request::TerminalSize;

/// Standard input as a raw terminal; put back when this value goes.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
}

/// Whether a command can have a terminal: someone types, and sees what it prints.
pub(crate) fn present() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Its size now.
pub(crate) fn size() -> Result<TerminalSize> {
    let size = tcgetwinsize(rustix::stdio::stdin()).context("asking for the terminal's size")?;
    Ok(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

impl RawTerminal {
    /// Hands every key to the command, Ctrl-C included.
    pub(crate) fn enter() -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).context("reading the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).context("making the terminal raw")?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone, and then there is nothing to put back.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
