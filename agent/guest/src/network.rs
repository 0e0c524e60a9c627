//! The network interfaces of the guest: what the pod's interfaces have on the host.
//!
//! All containers share the guest's own network namespace, which is the pod's. The host has put a
//! device on the bus for each interface; here it gets its name, addresses, routes and neighbours, so
//! that nobody inside can tell it from the one outside. Addresses bring no routes of their own, as
//! some CNI plug-ins take those away that the kernel would make.

mod address;
mod device;
mod route;

use std::collections::HashSet;

use caisson_netlink::packet::link::LinkAttribute;
use caisson_netlink::{Netlink, NetlinkError};
use caisson_protocol::agent::Interface;

use self::device::Device;
use crate::error::AgentError;

/// More than fit on the bus.
const MAX_INTERFACES: usize = 32;

/// Gives the interfaces what they are to have and takes them up.
///
/// # Errors
/// [`AgentError::InvalidArgument`] for what is no address, no name, or too much;
/// [`AgentError::FailedPrecondition`] when the bus has no such device; [`AgentError::Internal`] when
/// the kernel refuses something. Those that were down before are down again then.
pub fn set(interfaces: &[Interface]) -> Result<(), AgentError> {
    if interfaces.len() > MAX_INTERFACES {
        return Err(AgentError::InvalidArgument(format!(
            "{} network interfaces are more than {MAX_INTERFACES}",
            interfaces.len()
        )));
    }
    let devices = device::find_all(interfaces)?;
    let mut netlink = Netlink::open().map_err(|error| AgentError::Internal(error.to_string()))?;
    configure(&mut netlink, &devices)
}

fn configure(netlink: &mut Netlink, devices: &[(Device, &Interface)]) -> Result<(), AgentError> {
    let new: Vec<u32> = devices
        .iter()
        .filter(|(device, _)| !device.is_up)
        .map(|(device, _)| device.index)
        .collect();
    let result = configure_all(netlink, devices);
    if result.is_err() {
        for index in new {
            // The first error is the one to tell.
            let _ = netlink.lower(index);
        }
    }
    result
}

fn configure_all(
    netlink: &mut Netlink,
    devices: &[(Device, &Interface)],
) -> Result<(), AgentError> {
    name_all(netlink, devices)?;
    for (device, interface) in devices {
        if !device.is_up {
            // Only for addresses of IPv6 is it needed, and those fail with a better sentence.
            let _ = netlink.no_generated_address(device.index);
            netlink
                .raise(device.index)
                .map_err(|error| refused(interface, "it does not go up", &error))?;
        }
    }
    for (device, interface) in devices {
        address::add_all(netlink, device.index, interface)?;
    }
    // A route may need the addresses of any interface.
    for (device, interface) in devices {
        route::add_all(netlink, device.index, interface)?;
    }
    for (_, interface) in devices {
        route::add_all_multipath(netlink, interface)?;
    }
    Ok(())
}

/// Gives each device its name and MTU. A name may be one that another device has until now.
fn name_all(netlink: &mut Netlink, devices: &[(Device, &Interface)]) -> Result<(), AgentError> {
    let wanted: HashSet<&str> = devices.iter().map(|(_, i)| i.name.as_str()).collect();
    for (device, interface) in devices {
        if device.name != interface.name && wanted.contains(device.name.as_str()) {
            let aside = LinkAttribute::IfName(format!("caisson{}", device.index));
            netlink
                .set_link(device.index, vec![aside])
                .map_err(|error| refused(interface, "it cannot be renamed", &error))?;
        }
    }
    for (device, interface) in devices {
        let mut attributes = vec![LinkAttribute::Mtu(interface.mtu)];
        if device.name != interface.name {
            attributes.push(LinkAttribute::IfName(interface.name.clone()));
        }
        netlink
            .set_link(device.index, attributes)
            .map_err(|error| {
                let what = format!("it cannot have this name and an MTU of {}", interface.mtu);
                refused(interface, &what, &error)
            })?;
    }
    Ok(())
}

fn refused(interface: &Interface, what: &str, error: &NetlinkError) -> AgentError {
    AgentError::Internal(format!("interface {:?}: {what}: {error}", interface.name))
}

#[cfg(test)]
#[path = "network_test.rs"]
mod tests;
