//! Requests of the driver and the answers (virtio 1.3 §5.15.6).

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::State;

/// Types of requests.
pub(super) mod kind {
    pub(crate) const PLUG: u16 = 0;
    pub(crate) const UNPLUG: u16 = 1;
    pub(crate) const UNPLUG_ALL: u16 = 2;
    pub(crate) const STATE: u16 = 3;
}

/// Bytes of an answer.
pub(super) const RESPONSE_SIZE: usize = size_of::<RawResponse>();

/// A request as the driver writes it. What follows the type is the same for all that have it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawRequest {
    pub(super) kind: U16,
    padding: [u8; 6],
    pub(super) address: U64,
    pub(super) blocks: U16,
    padding_behind: [u8; 6],
}

/// An answer as the driver reads it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawResponse {
    kind: U16,
    padding: [u8; 6],
    state: U16,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Response {
    /// Done.
    Acknowledged,
    /// What the blocks are.
    State(State),
    /// Not now: the guest would have more than it was asked to have.
    Refused,
    /// Not now: the host has no resources for it.
    Busy,
    /// The request makes no sense.
    Error,
}

impl From<Response> for RawResponse {
    fn from(response: Response) -> Self {
        let (kind, state) = match response {
            Response::Acknowledged => (0, 0),
            Response::State(State::Plugged) => (0, 0),
            Response::State(State::Unplugged) => (0, 1),
            Response::State(State::Mixed) => (0, 2),
            Response::Refused => (1, 0),
            Response::Busy => (2, 0),
            Response::Error => (3, 0),
        };
        Self {
            kind: U16::new(kind),
            padding: [0; 6],
            state: U16::new(state),
        }
    }
}
