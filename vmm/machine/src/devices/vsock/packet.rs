//! vsock packets (virtio 1.3 §5.10.6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Context id of the host (virtio 1.3 §5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// The only socket type on offer, `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const STREAM: u16 = 1;
/// Bytes of a header.
pub(super) const HEADER_SIZE: usize = size_of::<Header>();

/// What a packet is for, `VIRTIO_VSOCK_OP_*`.
pub(super) mod op {
    /// Open a connection.
    pub(crate) const REQUEST: u16 = 1;
    /// The connection is accepted.
    pub(crate) const RESPONSE: u16 = 2;
    /// The connection is refused or gone.
    pub(crate) const RST: u16 = 3;
    /// No more data one way or both, see [`super::shutdown`].
    pub(crate) const SHUTDOWN: u16 = 4;
    /// Data.
    pub(crate) const RW: u16 = 5;
    /// Only to tell `buf_alloc` and `fwd_cnt`.
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    /// Asks for a `CREDIT_UPDATE`.
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a SHUTDOWN packet, `VIRTIO_VSOCK_SHUTDOWN_*`.
pub(super) mod shutdown {
    /// The sender will not receive any more.
    pub(crate) const RECEIVE: u32 = 1;
    /// The sender will not send any more.
    pub(crate) const SEND: u32 = 2;
    /// Both.
    pub(crate) const BOTH: u32 = RECEIVE | SEND;
}

/// The header of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    /// Context id of the sender.
    pub(super) src_cid: U64,
    /// Context id of the receiver.
    pub(super) dst_cid: U64,
    /// Port of the sender.
    pub(super) src_port: U32,
    /// Port of the receiver.
    pub(super) dst_port: U32,
    /// Bytes of data after the header.
    pub(super) len: U32,
    /// Socket type, [`STREAM`].
    pub(super) kind: U16,
    /// See [`op`].
    pub(super) op: U16,
    /// See [`shutdown`].
    pub(super) flags: U32,
    /// Bytes of buffer the sender has for the connection.
    pub(super) buf_alloc: U32,
    /// Bytes the sender has taken out of that buffer since the start, modulo 2³².
    pub(super) fwd_cnt: U32,
}

impl Header {
    /// The RST that answers this packet.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: U32::ZERO,
            kind: self.kind,
            op: U16::new(op::RST),
            flags: U32::ZERO,
            buf_alloc: U32::ZERO,
            fwd_cnt: U32::ZERO,
        }
    }
}

/// The two ports by which a connection is known. The context ids are always the same two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    /// Port on the host.
    pub(super) host: u32,
    /// Port in the guest.
    pub(super) guest: u32,
}
