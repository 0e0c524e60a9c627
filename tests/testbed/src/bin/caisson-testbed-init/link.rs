//! Our end of the virtio-serial port.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use caisson_testbed::{Decoder, Frame, PORT_DEVICE, Request};

/// The port, and what was read from it but not yet used.
pub(crate) struct Link {
    port: File,
    decoder: Decoder,
}

impl Link {
    /// Opens the port once the kernel has made its device node.
    pub(crate) fn open() -> Result<Self> {
        crate::devices::wait_for(Path::new(PORT_DEVICE))?;
        let port = File::options()
            .read(true)
            .write(true)
            .open(PORT_DEVICE)
            .with_context(|| format!("opening {PORT_DEVICE}"))?;
        Ok(Self {
            port,
            decoder: Decoder::default(),
        })
    }

    /// Waits for the first frame, which says what this boot is for.
    pub(crate) fn request(&mut self) -> Result<Request> {
        loop {
            match self.decoder.next_frame()? {
                Some(Frame::Request(json)) => {
                    return serde_json::from_slice(&json).context("the request is not valid");
                }
                Some(other) => bail!("expected a request, got {other:?}"),
                None => {
                    if !self.fill()? {
                        bail!("the host side closed the port before it asked for anything");
                    }
                }
            }
        }
    }

    /// The next frame that has already arrived.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>> {
        Ok(self.decoder.next_frame()?)
    }

    /// Reads what the port holds (blocks only if it holds nothing). False once the host is gone.
    pub(crate) fn fill(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let count = self.port.read(&mut buffer).context("reading the port")?;
        self.decoder.push(buffer.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// Sends one frame; blocks while the host side does not read, which holds the command back too.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<()> {
        self.port
            .write_all(&frame.encode())
            .context("writing to the port")
    }

    /// Reports the end of the request.
    pub(crate) fn exit(&mut self, status: u8) -> Result<()> {
        self.send(&Frame::Exit(status))
    }

    /// Reports that the request could not be carried out.
    pub(crate) fn failed(&mut self, text: &str) -> Result<()> {
        self.send(&Frame::Failed(text.into()))
    }

    /// Stays until the host side, which has what it wants, stops the machine.
    pub(crate) fn wait_for_the_end(&mut self) -> Result<()> {
        while self.fill()? {}
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}
