use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO, TUN_F_USO4, TUN_F_USO6};

use super::{
    GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_UFO, GUEST_USO4, GUEST_USO6, HOST_UFO,
    HOST_USO, LargeUdp, MQ, MTU, guest_offloads, on_offer, tap_offloads,
};

#[test]
fn nothing_is_left_undone_without_checksums() {
    assert_eq!(tap_offloads(0), 0);
    assert_eq!(tap_offloads(GUEST_TSO4 | GUEST_TSO6 | GUEST_UFO), 0);
}

#[test]
fn the_tap_leaves_undone_what_the_driver_takes() {
    for (features, offloads) in [
        (0, 0),
        (GUEST_TSO4, TUN_F_TSO4),
        (GUEST_TSO6 | GUEST_ECN, TUN_F_TSO6 | TUN_F_TSO_ECN),
        (GUEST_ECN, 0),
        (GUEST_UFO, TUN_F_UFO),
        (GUEST_USO4, 0),
        (GUEST_USO6, 0),
        (GUEST_USO4 | GUEST_USO6, TUN_F_USO4 | TUN_F_USO6),
    ] {
        let expected = TUN_F_CSUM | offloads;
        assert_eq!(
            tap_offloads(GUEST_CSUM | features),
            expected,
            "{features:#x}"
        );
    }
}

#[test]
fn everything_on_offer_is_what_the_probe_asked_for() {
    for kind in [LargeUdp::Segments, LargeUdp::Fragments] {
        let offered = on_offer(kind, true, true);
        assert_eq!(tap_offloads(guest_offloads(offered)), kind.offloads());
    }
}

#[test]
fn what_is_not_there_is_not_on_offer() {
    let offered = on_offer(LargeUdp::Fragments, false, false);
    assert_eq!(offered & (MTU | MQ | HOST_USO | GUEST_USO4), 0);
    assert_ne!(offered & HOST_UFO, 0);
    let offered = on_offer(LargeUdp::Segments, true, true);
    assert_eq!(offered & (MTU | MQ | HOST_USO), MTU | MQ | HOST_USO);
    assert_eq!(offered & (HOST_UFO | GUEST_UFO), 0);
    // The transport's bits are not ours (virtio 1.3 §2.2).
    assert_eq!(offered & ((1 << 50) - (1 << 24)), 0);
}
