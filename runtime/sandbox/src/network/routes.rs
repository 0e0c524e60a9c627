//! The routes of the main table.

use caisson_netlink::packet::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteType, RouteVia,
};
use caisson_netlink::packet::{AddressFamily, RouteNetlinkMessage};
use caisson_netlink::{Netlink, NetlinkError};
use caisson_protocol::agent::{NextHop, Route};

use super::addresses::octets;
use super::survey::Found;

/// Gives each interface the routes that lead through it, those first that others need.
///
/// # Errors
/// See [`NetlinkError`].
pub(super) fn add(netlink: &mut Netlink, found: &mut [Found]) -> Result<(), NetlinkError> {
    let mut all = RouteMessage::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        all.header.address_family = family;
        for message in netlink.list(&RouteNetlinkMessage::GetRoute(all.clone()))? {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && let Some((index, route)) = route(&message, found)
                && let Some(found) = found.iter_mut().find(|found| found.index == index)
            {
                found.interface.routes.push(route);
            }
        }
    }
    for found in found {
        // A gateway must be within reach when the route through it comes.
        let routes = &mut found.interface.routes;
        routes.sort_by_key(|route| !route.gateway.is_empty() || !route.next_hops.is_empty());
    }
    Ok(())
}

/// A route of the main table with the number of its interface, which of several is the first one.
fn route(message: &RouteMessage, interfaces: &[Found]) -> Option<(u32, Route)> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut interface = None;
    let mut route = Route {
        ipv6: header.address_family == AddressFamily::Inet6,
        prefix: header.destination_prefix_length.into(),
        scope: u8::from(header.scope).into(),
        protocol: u8::from(header.protocol).into(),
        tos: header.tos.into(),
        onlink: header.flags.contains(RouteFlags::Onlink),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Destination(address) => route.destination = bytes(address)?,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                route.gateway = gateway(attribute)?;
            }
            RouteAttribute::PrefSource(address) => route.source = bytes(address)?,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => route.mtu = *mtu,
                        RouteMetric::Advmss(size) => route.advmss = *size,
                        _ => {}
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                let known = hops.iter().filter_map(|hop| next_hop(hop, interfaces));
                (interface, route.next_hops) = known.fold((None, Vec::new()), |all, hop| {
                    let (first, mut hops) = all;
                    hops.push(hop.1);
                    (first.or(Some(hop.0)), hops)
                });
            }
            _ => {}
        }
    }
    let is_kept = table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast
        && !header.flags.contains(RouteFlags::Cloned);
    Some((interface.filter(|_| is_kept)?, route))
}

/// One way of several, if it leads through an interface that the guest has.
fn next_hop(hop: &RouteNextHop, interfaces: &[Found]) -> Option<(u32, NextHop)> {
    let index = hop.interface_index;
    let interface = interfaces.iter().find(|found| found.index == index)?;
    let next_hop = NextHop {
        interface: interface.interface.name.clone(),
        gateway: hop.attributes.iter().find_map(gateway).unwrap_or_default(),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        weight: u32::from(hop.hops) + 1,
        ..Default::default()
    };
    Some((index, next_hop))
}

fn gateway(attribute: &RouteAttribute) -> Option<Vec<u8>> {
    match attribute {
        RouteAttribute::Gateway(address) => bytes(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(octets((*address).into())),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(octets((*address).into())),
        _ => None,
    }
}

fn bytes(address: &RouteAddress) -> Option<Vec<u8>> {
    match address {
        RouteAddress::Inet(address) => Some(octets((*address).into())),
        RouteAddress::Inet6(address) => Some(octets((*address).into())),
        _ => None,
    }
}
