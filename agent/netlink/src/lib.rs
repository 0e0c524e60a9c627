//! Network interfaces by routing netlink (rtnetlink(7)): one question at a time, over a blocking
//! socket that belongs to the network namespace of the thread that opened it.
//!
//! The messages are those of `netlink-packet-route`; what is here is the conversation, and what both
//! sides of a pod do to an interface. It is the host's runtime that looks into the pod's namespace,
//! and the guest's agent that makes the same of its own.

#![forbid(unsafe_code)]

mod link;
mod socket;

pub use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
pub use netlink_packet_route as packet;
pub use socket::{Netlink, NetlinkError};
