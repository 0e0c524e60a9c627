//! What the guest's interfaces are called on the net, and whom they know by name.

use std::net::IpAddr;

use caisson_netlink::packet::RouteNetlinkMessage;
use caisson_netlink::packet::address::{AddressAttribute, AddressMessage};
use caisson_netlink::packet::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use caisson_netlink::{Netlink, NetlinkError};
use caisson_protocol::agent::{Address, Neighbour};

use super::survey::Found;

/// Gives each interface its addresses, and the neighbours that were set by hand.
///
/// # Errors
/// See [`NetlinkError`].
pub(super) fn add(netlink: &mut Netlink, found: &mut [Found]) -> Result<(), NetlinkError> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for message in netlink.list(&all)? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(found) = of(found, message.header.index)
        {
            found.interface.addresses.extend(address(&message));
        }
    }
    let all = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    for message in netlink.list(&all)? {
        if let RouteNetlinkMessage::NewNeighbour(message) = message
            && message.header.state == NeighbourState::Permanent
            && let Some(found) = of(found, message.header.ifindex)
        {
            found.interface.neighbours.extend(neighbour(&message));
        }
    }
    Ok(())
}

fn of(found: &mut [Found], index: u32) -> Option<&mut Found> {
    found.iter_mut().find(|found| found.index == index)
}

/// The bytes of an address in the order of the network.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut other, mut local) = (None, None);
    let mut address = Address {
        prefix: message.header.prefix_len.into(),
        scope: u8::from(message.header.scope).into(),
        valid: u32::MAX,
        preferred: u32::MAX,
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Broadcast(broadcast) => {
                address.broadcast = broadcast.octets().to_vec();
            }
            AddressAttribute::Label(label) => address.label.clone_from(label),
            AddressAttribute::CacheInfo(times) => {
                address.valid = times.ifa_valid;
                address.preferred = times.ifa_preferred;
            }
            _ => {}
        }
    }
    // With a local address, the other one is the peer's; IPv4 always has both (rtnetlink(7)).
    let own = local.or(other)?;
    address.address = octets(own);
    if let Some(peer) = other.filter(|other| *other != own) {
        address.peer = octets(peer);
    }
    Some(address)
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut neighbour = Neighbour::default();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                neighbour.address = octets((*address).into());
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                neighbour.address = octets((*address).into());
            }
            NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac.clone_from(mac),
            _ => {}
        }
    }
    (!neighbour.address.is_empty() && neighbour.mac.len() == 6).then_some(neighbour)
}
