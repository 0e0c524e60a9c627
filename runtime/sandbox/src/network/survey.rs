//! The interfaces of the pod's namespace, as the guest is to have them.

use caisson_netlink::packet::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use caisson_netlink::{Netlink, NetlinkError};
use caisson_protocol::agent::Interface;

use super::{addresses, routes};

/// An interface that the guest is to have.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its number in the namespace.
    pub(super) index: u32,
    /// Its hardware address, which is an interface's.
    pub(super) mac: [u8; 6],
    /// Everything else; without a slot.
    pub(super) interface: Interface,
}

/// Looks for interfaces in the network namespace of `netlink`, in the order in which they were made.
///
/// # Errors
/// See [`NetlinkError`].
pub(super) fn survey(netlink: &mut Netlink) -> Result<Vec<Found>, NetlinkError> {
    let mut found: Vec<Found> = netlink.links()?.iter().filter_map(wanted).collect();
    if !found.is_empty() {
        addresses::add(netlink, &mut found)?;
        routes::add(netlink, &mut found)?;
    }
    Ok(found)
}

/// The interface if the guest is to have it. What it does not get is logged with the reason.
fn wanted(link: &LinkMessage) -> Option<Found> {
    let link = Link::of(link);
    match link.unfit() {
        None => {}
        Some(Unfit::Ours) => return None,
        Some(Unfit::Because(reason)) => {
            tracing::info!("the guest gets no {}: {reason}", link.name);
            return None;
        }
    }
    let interface = Interface {
        name: link.name,
        mtu: link.mtu,
        ..Default::default()
    };
    Some(Found {
        index: link.index,
        mac: link.mac.try_into().ok()?,
        interface,
    })
}

/// Why an interface stays where it is.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    /// Every namespace has a loopback interface, and the taps are ours.
    Ours,
    Because(&'static str),
}

/// What decides.
#[derive(Debug, Default)]
struct Link {
    index: u32,
    name: String,
    mac: Vec<u8>,
    mtu: u32,
    kind: Option<InfoKind>,
    has_controller: bool,
    flags: LinkFlags,
    is_ethernet: bool,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            flags: message.header.flags,
            is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(_) => link.has_controller = true,
                LinkAttribute::LinkInfo(information) => {
                    link.kind = information.iter().find_map(|item| match item {
                        LinkInfo::Kind(kind) => Some(kind.clone()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }

    fn unfit(&self) -> Option<Unfit> {
        let is_tap = self.kind == Some(InfoKind::Tun);
        if self.flags.contains(LinkFlags::Loopback) || is_tap && self.name.starts_with("caisson") {
            return Some(Unfit::Ours);
        }
        let reason = if !self.is_ethernet {
            "it is not an Ethernet interface"
        } else if is_tap {
            "the traffic of a tap belongs to the program that has it open"
        } else if !self.flags.contains(LinkFlags::Up) {
            "it is down"
        } else if self.has_controller {
            "it is a part of another interface"
        } else if self.flags.contains(LinkFlags::Noarp) {
            "nobody answers ARP there"
        } else if !is_of_interface(&self.mac) {
            "its hardware address is not that of an interface"
        } else {
            return None;
        };
        Some(Unfit::Because(reason))
    }
}

/// Neither of a group nor empty.
fn is_of_interface(mac: &[u8]) -> bool {
    let is_group = mac.first().is_none_or(|first| first & 1 == 1);
    mac.len() == 6 && !is_group && mac.iter().any(|byte| *byte != 0)
}

#[cfg(test)]
#[path = "survey_test.rs"]
mod tests;
