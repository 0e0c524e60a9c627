//! Routes through an interface.

use std::net::IpAddr;

use caisson_netlink::packet::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use caisson_netlink::packet::{AddressFamily, RouteNetlinkMessage};
use caisson_netlink::{NLM_F_CREATE, NLM_F_REPLACE, Netlink};
use caisson_protocol::agent::{Interface, Route};

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
        let message = RouteNetlinkMessage::NewRoute(message(index, route)?);
        netlink
            .change(message, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|error| {
                let what = format!("it cannot have the route to {}", Name(route));
                refused(interface, &what, &error)
            })?;
    }
    Ok(())
}

fn message(index: u32, route: &Route) -> Result<RouteMessage, AgentError> {
    let own_family = if route.ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let own = |bytes: &[u8]| match ip(bytes)? {
        address if family(address) == own_family => Ok(address),
        address => Err(AgentError::InvalidArgument(format!(
            "{address} does not belong into the route to {}",
            Name(route)
        ))),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = own_family;
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
    attributes.push(RouteAttribute::Oif(index));
    if !route.destination.is_empty() {
        let destination = own(&route.destination)?;
        attributes.push(RouteAttribute::Destination(destination.into()));
    }
    if !route.gateway.is_empty() {
        attributes.push(match (ip(&route.gateway)?, own_family) {
            (IpAddr::V6(gateway), AddressFamily::Inet) => {
                RouteAttribute::Via(RouteVia::Inet6(gateway))
            }
            _ => RouteAttribute::Gateway(own(&route.gateway)?.into()),
        });
    }
    if !route.source.is_empty() {
        attributes.push(RouteAttribute::PrefSource(own(&route.source)?.into()));
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
