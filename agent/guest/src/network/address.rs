//! Addresses of interfaces, and neighbours whose hardware addresses are given.

use std::net::IpAddr;

use caisson_netlink::packet::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use caisson_netlink::packet::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use caisson_netlink::packet::{AddressFamily, RouteNetlinkMessage};
use caisson_netlink::{NLM_F_CREATE, NLM_F_REPLACE, Netlink};
use caisson_protocol::agent::{Address, Interface, Neighbour};

use super::refused;
use crate::error::AgentError;

/// Gives an interface its addresses and neighbours.
///
/// # Errors
/// See [`super::set`].
pub(super) fn add_all(
    netlink: &mut Netlink,
    index: u32,
    interface: &Interface,
) -> Result<(), AgentError> {
    for address in &interface.addresses {
        let own = ip(&address.address)?;
        let message = RouteNetlinkMessage::NewAddress(message(index, own, address)?);
        netlink
            .change(message, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|error| {
                let what = format!("it cannot have the address {own}/{}", address.prefix);
                refused(interface, &what, &error)
            })?;
    }
    for neighbour in &interface.neighbours {
        let who = ip(&neighbour.address)?;
        let message = RouteNetlinkMessage::NewNeighbour(neighbour_message(index, who, neighbour)?);
        netlink
            .change(message, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|error| {
                refused(
                    interface,
                    &format!("it cannot know neighbour {who}"),
                    &error,
                )
            })?;
    }
    Ok(())
}

/// An address of 4 or 16 bytes.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for any other length.
pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, AgentError> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or(sixteen).map_err(|_| {
        AgentError::InvalidArgument(format!("an address of IP has 4 or 16 bytes, not {bytes:?}"))
    })
}

/// The kernel's number of the family.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A number that the kernel has in one byte.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for one that does not fit.
pub(super) fn byte(what: &str, number: u32) -> Result<u8, AgentError> {
    number
        .try_into()
        .map_err(|_| AgentError::InvalidArgument(format!("{what} {number} is above 255")))
}

fn message(index: u32, own: IpAddr, address: &Address) -> Result<AddressMessage, AgentError> {
    let mut message = AddressMessage::default();
    message.header.family = family(own);
    message.header.prefix_len = byte("a prefix of", address.prefix)?;
    message.header.scope = AddressScope::from(byte("the scope", address.scope)?);
    message.header.index = index;
    let other = if address.peer.is_empty() {
        own
    } else {
        ip(&address.peer)?
    };
    // The host's kernel has found out already whether somebody else has it.
    let flags = match own {
        IpAddr::V4(_) => AddressFlags::Noprefixroute,
        IpAddr::V6(_) => AddressFlags::Noprefixroute | AddressFlags::Nodad,
    };
    message.attributes = vec![
        AddressAttribute::Local(own),
        AddressAttribute::Address(other),
        AddressAttribute::Flags(flags),
    ];
    if let Ok(broadcast) = <[u8; 4]>::try_from(address.broadcast.as_slice()) {
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast.into()));
    }
    if !address.label.is_empty() {
        let label = address.label.clone();
        message.attributes.push(AddressAttribute::Label(label));
    }
    if address.valid != u32::MAX {
        let mut times = CacheInfo::default();
        times.ifa_valid = address.valid;
        times.ifa_preferred = address.preferred;
        message.attributes.push(AddressAttribute::CacheInfo(times));
    }
    Ok(message)
}

fn neighbour_message(
    index: u32,
    who: IpAddr,
    neighbour: &Neighbour,
) -> Result<NeighbourMessage, AgentError> {
    if neighbour.mac.len() != 6 {
        return Err(AgentError::InvalidArgument(format!(
            "a hardware address has 6 bytes, not {:?}",
            neighbour.mac
        )));
    }
    let mut message = NeighbourMessage::default();
    message.header.family = family(who);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let who = match who {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(who),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.clone()),
    ];
    Ok(message)
}
