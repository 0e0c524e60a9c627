//! Feature bits of the network device (virtio 1.3 §5.1.3), and what they mean for a tap.

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO, TUN_F_USO4, TUN_F_USO6};

/// The device completes checksums that the driver left to it.
pub(super) const CSUM: u64 = 1 << 0;
/// The driver takes packets with incomplete checksums.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// The driver may change the `GUEST_` features of the running device.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The device says what the MTU is.
pub(super) const MTU: u64 = 1 << 3;
/// The device says what its hardware address is.
pub(super) const MAC: u64 = 1 << 5;
/// The driver takes TCP packets over IPv4 that wait to be cut.
pub(super) const GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub(super) const GUEST_TSO6: u64 = 1 << 8;
/// The same with explicit congestion notification.
pub(super) const GUEST_ECN: u64 = 1 << 9;
/// The driver takes UDP packets that wait to be fragmented.
pub(super) const GUEST_UFO: u64 = 1 << 10;
/// The device cuts TCP packets over IPv4.
pub(super) const HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub(super) const HOST_TSO6: u64 = 1 << 12;
/// The same with explicit congestion notification.
pub(super) const HOST_ECN: u64 = 1 << 13;
/// The device fragments UDP packets.
pub(super) const HOST_UFO: u64 = 1 << 14;
/// The driver puts packets together that span buffers.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
/// The device says whether the link is up.
pub(super) const STATUS: u64 = 1 << 16;
/// There is a control queue.
pub(super) const CTRL_VQ: u64 = 1 << 17;
/// There are several queue pairs.
pub(super) const MQ: u64 = 1 << 22;
/// The driver takes UDP packets over IPv4 that wait to be cut.
pub(super) const GUEST_USO4: u64 = 1 << 54;
/// The same over IPv6.
pub(super) const GUEST_USO6: u64 = 1 << 55;
/// The device cuts UDP packets.
pub(super) const HOST_USO: u64 = 1 << 56;

/// The features that decide what a tap may hand to the driver.
const GUEST_OFFLOADS: u64 =
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6;

/// What a tap does for large UDP packets: the one or the other, by the age of the host's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LargeUdp {
    /// Cuts them into datagrams, since Linux 6.2.
    Segments,
    /// Fragments them.
    Fragments,
}

impl LargeUdp {
    /// Everything that a tap of this kind is asked to hand on.
    pub(super) fn offloads(self) -> u32 {
        TUN_F_CSUM
            | TUN_F_TSO4
            | TUN_F_TSO6
            | TUN_F_TSO_ECN
            | match self {
                Self::Segments => TUN_F_USO4 | TUN_F_USO6,
                Self::Fragments => TUN_F_UFO,
            }
    }
}

/// The features on offer.
pub(super) fn on_offer(large_udp: LargeUdp, mtu: bool, multi_queue: bool) -> u64 {
    let always = CSUM
        | GUEST_CSUM
        | CTRL_GUEST_OFFLOADS
        | MAC
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MRG_RXBUF
        | STATUS
        | CTRL_VQ;
    let udp = match large_udp {
        LargeUdp::Segments => GUEST_USO4 | GUEST_USO6 | HOST_USO,
        LargeUdp::Fragments => GUEST_UFO | HOST_UFO,
    };
    always | udp | if mtu { MTU } else { 0 } | if multi_queue { MQ } else { 0 }
}

/// The `GUEST_` features among `features`.
pub(super) fn guest_offloads(features: u64) -> u64 {
    features & GUEST_OFFLOADS
}

/// What the tap may leave undone for a driver with these `GUEST_` features. Nothing works without
/// checksums (virtio 1.3 §5.1.3.1), and the kernel cuts UDP for both versions of IP or for none.
pub(super) fn tap_offloads(guest_offloads: u64) -> u32 {
    let has = |feature| guest_offloads & feature == feature;
    if !has(GUEST_CSUM) {
        return 0;
    }
    let mut offloads = TUN_F_CSUM;
    for (feature, offload) in [
        (GUEST_TSO4, TUN_F_TSO4),
        (GUEST_TSO6, TUN_F_TSO6),
        (GUEST_UFO, TUN_F_UFO),
        (GUEST_USO4 | GUEST_USO6, TUN_F_USO4 | TUN_F_USO6),
    ] {
        if has(feature) {
            offloads |= offload;
        }
    }
    // The kernel refuses this one without TCP segmentation.
    if has(GUEST_ECN) && offloads & (TUN_F_TSO4 | TUN_F_TSO6) != 0 {
        offloads |= TUN_F_TSO_ECN;
    }
    offloads
}

#[cfg(test)]
#[path = "features_test.rs"]
mod tests;
