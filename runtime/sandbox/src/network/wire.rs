//! One interface of the pod's namespace, connected to one of the virtual machine.

use std::io;
use std::os::fd::OwnedFd;

use caisson_netlink::packet::link::LinkAttribute;
use caisson_netlink::{Netlink, NetlinkError};

use super::redirect::{redirect, undo};
use super::survey::Found;
use super::tap::Tap;

/// Why the pod's network does not reach the guest.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// There can be no thread in the namespace.
    #[error("its network namespace cannot be entered: {0}")]
    Namespace(#[source] io::Error),
    /// The kernel does not show what there is.
    #[error("the interfaces of its network namespace cannot be listed: {0}")]
    Survey(#[from] NetlinkError),
    /// No tap.
    #[error(
        "{interface} cannot be connected to the virtual machine: {source}; containerd must run as \
         root and the kernel must have the module tun"
    )]
    Tap {
        /// The interface that was to have one.
        interface: String,
        /// Why there is none.
        source: io::Error,
    },
    /// Rules of somebody else.
    #[error(
        "{interface} has an ingress queueing discipline already: another virtual machine uses this \
         network namespace, or `tc qdisc del dev {interface} ingress` was forgotten"
    )]
    Taken {
        /// The interface.
        interface: String,
    },
    /// No rules.
    #[error(
        "{interface} cannot be connected to the virtual machine: {source}; the kernel must have the \
         modules sch_ingress, cls_u32 and act_mirred"
    )]
    Rule {
        /// The interface.
        interface: String,
        /// Why there are none.
        source: NetlinkError,
    },
    /// Not written down.
    #[error("the state directory cannot be written: {0}")]
    Record(#[source] io::Error),
}

/// Makes a tap beside the interface, and has each give the other what it gets. Returns the tap's
/// queue for the VMM; with its last descriptor the tap goes, and with that nothing is left but the
/// rule on the interface.
///
/// # Errors
/// See [`WireError`]; nothing is left then.
pub(super) fn connect(netlink: &mut Netlink, found: &Found) -> Result<OwnedFd, WireError> {
    let interface = || found.interface.name.clone();
    let rule = |source| WireError::Rule {
        interface: interface(),
        source,
    };
    let tap = Tap::new().map_err(|source| WireError::Tap {
        interface: interface(),
        source,
    })?;
    // It has no address and says nothing of its own accord. A kernel without IPv6 has nothing to be
    // told.
    let _ = netlink.no_generated_address(tap.index);
    let mtu = vec![LinkAttribute::Mtu(found.interface.mtu)];
    netlink.set_link(tap.index, mtu).map_err(rule)?;
    redirect(netlink, tap.index, found.index).map_err(rule)?;
    netlink.raise(tap.index).map_err(rule)?;
    // From here on the host does not hear the interface any more.
    redirect(netlink, found.index, tap.index).map_err(|source| match source.errno() {
        Some(libc::EEXIST) => WireError::Taken {
            interface: interface(),
        },
        _ => rule(source),
    })?;
    Ok(tap.queue)
}

/// Takes away what is left of the connection on interface `index`, if that is still there.
pub(super) fn disconnect(netlink: &mut Netlink, index: u32) {
    match undo(netlink, index) {
        Ok(()) => {}
        // The interface has left, and the rule with it.
        Err(error)
            if matches!(
                error.errno(),
                Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
            ) => {}
        Err(error) => tracing::warn!("the rule on interface {index} was not removed: {error}"),
    }
}

#[cfg(test)]
#[path = "wire_test.rs"]
mod tests;
