//! The routes of the main table.

use caisson_netlink::packet::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
    RouteVia,
};
use caisson_netlink::packet::{AddressFamily, RouteNetlinkMessage};
use caisson_netlink::{Netlink, NetlinkError};
use caisson_protocol::agent::Route;

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
                && let Some((index, route)) = route(&message)
                && let Some(found) = found.iter_mut().find(|found| found.index == index)
            {
                found.interface.routes.push(route);
            }
        }
    }
    for found in found {
        // A gateway must be within reach when the route through it comes.
        let routes = &mut found.interface.routes;
        routes.sort_by_key(|route| !route.gateway.is_empty());
    }
    Ok(())
}

/// A route of the main table with the number of its interface.
fn route(message: &RouteMessage) -> Option<(u32, Route)> {
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
            RouteAttribute::Gateway(address) => route.gateway = bytes(address)?,
            RouteAttribute::Via(RouteVia::Inet(address)) => {
                route.gateway = octets((*address).into());
            }
            RouteAttribute::Via(RouteVia::Inet6(address)) => {
                route.gateway = octets((*address).into());
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
            RouteAttribute::MultiPath(_) => {
                tracing::warn!("the guest does not get a route with several next hops");
                return None;
            }
            _ => {}
        }
    }
    let is_kept = table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast
        && !header.flags.contains(RouteFlags::Cloned);
    Some((interface.filter(|_| is_kept)?, route))
}

fn bytes(address: &RouteAddress) -> Option<Vec<u8>> {
    match address {
        RouteAddress::Inet(address) => Some(octets((*address).into())),
        RouteAddress::Inet6(address) => Some(octets((*address).into())),
        _ => None,
    }
}
