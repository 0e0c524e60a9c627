//! Routes through an interface.

use std::net::IpAddr;

use caisson_netlink::packet::link::LinkAttribute;
use caisson_netlink::packet::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use caisson_netlink::packet::{AddressFamily, RouteNetlinkMessage};
use caisson_netlink::{NLM_F_CREATE, NLM_F_REPLACE, Netlink};
use caisson_protocol::agent::{Interface, NextHop, Route};

use super::address::{byte, family, ip};
use super::refused;
use crate::error::AgentError;

/// Gives an interface its routes, in order.
///
/// # Errors
/// See [`super::set`].
pub(super) fn add_all(
    netlink: &mut Netlink,
    index: u32,
    interface: &Interface,
) -> Result<(), AgentError> {
    for route in &interface.routes {
        if route.next_hops.is_empty() {
            let mut message = message(route)?;
            message.attributes.push(RouteAttribute::Oif(index));
            add(netlink, interface, route, message)?;
        }
    }
    Ok(())
}

/// Gives an interface its routes with several next hops, which may lead through any interface.
///
/// # Errors
/// See [`super::set`].
pub(super) fn add_all_multipath(
    netlink: &mut Netlink,
    interface: &Interface,
) -> Result<(), AgentError> {
    for route in &interface.routes {
        if !route.next_hops.is_empty() {
            let mut message = message(route)?;
            let hops = route.next_hops.iter();
            let hops = hops.map(|hop| next_hop(netlink, route, hop));
            let hops = hops.collect::<Result<Vec<_>, _>>()?;
            message.attributes.push(RouteAttribute::MultiPath(hops));
            add(netlink, interface, route, message)?;
        }
    }
    Ok(())
}

fn add(
    netlink: &mut Netlink,
    interface: &Interface,
    route: &Route,
    message: RouteMessage,
) -> Result<(), AgentError> {
    let message = RouteNetlinkMessage::NewRoute(message);
    netlink
        .change(message, NLM_F_CREATE | NLM_F_REPLACE)
        .map_err(|error| {
            let what = format!("it cannot have the route to {}", Name(route));
            refused(interface, &what, &error)
        })
}

fn next_hop(
    netlink: &mut Netlink,
    route: &Route,
    hop: &NextHop,
) -> Result<RouteNextHop, AgentError> {
    let mut next_hop = RouteNextHop::default();
    next_hop.interface_index = index_of(netlink, &hop.interface)?;
    // The kernel has one less than the weight.
    next_hop.hops = byte("the weight less one", hop.weight.saturating_sub(1))?;
    if hop.onlink {
        next_hop.flags = RouteNextHopFlags::Onlink;
    }
    if !hop.gateway.is_empty() {
        next_hop.attributes.push(gateway(route, &hop.gateway)?);
    }
    Ok(next_hop)
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, AgentError> {
    let links = netlink.links();
    let links = links.map_err(|error| AgentError::Internal(error.to_string()))?;
    let is_called =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(own) if own == name);
    let link = links
        .iter()
        .find(|link| link.attributes.iter().any(is_called));
    link.map(|link| link.header.index).ok_or_else(|| {
        AgentError::FailedPrecondition(format!(
            "a route leads through {name:?}, which is not there"
        ))
    })
}

fn family_of(route: &Route) -> AddressFamily {
    if route.ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// An address of the route's own family.
fn own(route: &Route, bytes: &[u8]) -> Result<IpAddr, AgentError> {
    match ip(bytes)? {
        address if family(address) == family_of(route) => Ok(address),
        address => Err(AgentError::InvalidArgument(format!(
            "{address} does not belong into the route to {}",
            Name(route)
        ))),
    }
}

fn gateway(route: &Route, bytes: &[u8]) -> Result<RouteAttribute, AgentError> {
    Ok(match (ip(bytes)?, family_of(route)) {
        (IpAddr::V6(gateway), AddressFamily::Inet) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        _ => RouteAttribute::Gateway(own(route, bytes)?.into()),
    })
}

/// All of a route but where it leads through.
fn message(route: &Route) -> Result<RouteMessage, AgentError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route);
    message.header.destination_prefix_length = byte("a prefix of", route.prefix)?;
    message.header.tos = byte("the type of service", route.tos)?;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(byte("the protocol", route.protocol)?);
    message.header.scope = RouteScope::from(byte("the scope", route.scope)?);
    message.header.kind = RouteType::Unicast;
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if !route.destination.is_empty() {
        let destination = own(route, &route.destination)?;
        attributes.push(RouteAttribute::Destination(destination.into()));
    }
    if !route.gateway.is_empty() {
        attributes.push(gateway(route, &route.gateway)?);
    }
    if !route.source.is_empty() {
        attributes.push(RouteAttribute::PrefSource(
            own(route, &route.source)?.into(),
        ));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    let mut metrics = Vec::new();
    if route.mtu != 0 {
        metrics.push(RouteMetric::Mtu(route.mtu));
    }
    if route.advmss != 0 {
        metrics.push(RouteMetric::Advmss(route.advmss));
    }
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    Ok(message)
}

/// A route as people write it.
struct Name<'a>(&'a Route);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(route) = self;
        match ip(&route.destination) {
            Ok(destination) => write!(formatter, "{destination}/{}", route.prefix)?,
            Err(_) => formatter.write_str("default")?,
        }
        match ip(&route.gateway) {
            Ok(gateway) => write!(formatter, " via {gateway}"),
            Err(_) => Ok(()),
        }
    }
}
