//! The conversation with the kernel (netlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel fills at most 32 KiB in one go (`netlink_dump`), whatever room there is.
const ROOM: usize = 64 << 10;
/// How often a list is asked for again that changed while the kernel wrote it.
const TRIES: u32 = 16;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("routing netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel said no.
    #[error("{0}")]
    Refused(io::Error),
    /// The kernel said something that is not understood.
    #[error("an answer of the kernel is not understood: {0}")]
    Malformed(String),
    /// A list changed each time it was read.
    #[error("the kernel's list changed {TRIES} times while it was read")]
    Restless,
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

impl NetlinkError {
    /// The number of the kernel's refusal.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(error) => error.raw_os_error(),
            Self::Socket(_) | Self::Malformed(_) | Self::Restless => None,
        }
    }
}

/// A connection to the routing part of the kernel, for the network namespace of the thread that
/// opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Connects to the kernel.
    ///
    /// # Errors
    /// What socket(2) and connect(2) answer.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE, which is 0.
            None,
        )?;
        // Connected, it hears nobody but the kernel.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Has the kernel change something; `flags` are `NLM_F_CREATE` and its like.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when it does not.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_ACK | flags)?;
        loop {
            for answer in self.receive()? {
                if let NetlinkPayload::Error(error) = answer.payload {
                    return match error.code {
                        None => Ok(()),
                        Some(_) => Err(NetlinkError::Refused(error.to_io())),
                    };
                }
            }
        }
    }

    /// A whole list of the kernel's.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when it has none such.
    pub fn list(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..TRIES {
            self.send(message.clone(), NLM_F_DUMP)?;
            if let Some(list) = self.receive_list()? {
                return Ok(list);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Reads a list to its end; `None` if it changed meanwhile.
    fn receive_list(&mut self) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let mut list = Vec::new();
        let mut whole = true;
        loop {
            for answer in self.receive()? {
                whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => list.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused(error.to_io()));
                    }
                    NetlinkPayload::Done(_) => return Ok(whole.then_some(list)),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// The messages of one datagram, those of earlier questions left out.
    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        let mut bytes = vec![0; ROOM];
        let count = loop {
            match rustix::net::recv(&self.socket, bytes.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, count)) => break count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut rest = bytes
            .get(..count)
            .ok_or_else(|| NetlinkError::Malformed(format!("it has {count} bytes")))?;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest)
                .map_err(|error| NetlinkError::Malformed(error.to_string()))?;
            let length = message.header.length as usize;
            // Each begins at a multiple of four bytes.
            rest = rest
                .get(length.next_multiple_of(4).max(4)..)
                .unwrap_or_default();
            if message.header.sequence_number == self.sequence {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

#[cfg(test)]
#[path = "socket_test.rs"]
mod tests;
