use std::fs::File;
use std::os::fd::OwnedFd;

use caisson_control::{NetConfig, RefusalKind};

use super::{LargeUdp, Net, NetError, STATUS, config, features};
use crate::devices::net::Direction;
use crate::virtio::device::Device;

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| File::open("/dev/null").unwrap().into())
        .collect()
}

#[test]
fn the_configuration_space_says_what_the_interface_is() {
    let config = NetConfig {
        mtu: Some(1400),
        ..config(1)
    };
    let device = Net::with_links(&config, Vec::new(), LargeUdp::Segments).unwrap();
    let mut bytes = [0; 14];
    device.config().read(0, &mut bytes);
    let expected = [2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0x78, 0x05, 0, 0];
    assert_eq!(bytes, expected);
    assert_ne!(device.features() & features::MTU, 0);
    assert_eq!(device.features() & features::MQ, 0);
}

#[test]
fn a_deleted_tap_takes_the_link_down() {
    let mut rig = super::Rig::new(STATUS);
    rig.offer(0, &[1530]);
    rig.hosts[0].send(&[]).unwrap();
    rig.settle();
    assert!(rig.line.flags.take_isr() != 0);
    let mut status = [0xff; 2];
    let stopped = rig.stop();
    stopped.device.config().read(6, &mut status);
    assert_eq!(status, [0, 0]);
}

#[test]
fn a_description_that_makes_no_sense_is_refused() {
    let refused = |config: NetConfig, count| {
        let Err(error) = Net::new(&config, files(count)) else {
            panic!("{config:?} was accepted");
        };
        assert_eq!(error.kind(), RefusalKind::Invalid);
        error
    };
    for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]] {
        let config = NetConfig { mac, ..config(1) };
        assert!(matches!(refused(config, 1), NetError::Mac));
    }
    let small = NetConfig {
        mtu: Some(67),
        ..config(1)
    };
    assert!(matches!(refused(small, 1), NetError::Mtu(67)));
    for pairs in [0, 9] {
        let error = refused(config(pairs), pairs.into());
        assert!(matches!(error, NetError::QueuePairs(wrong) if wrong == pairs));
    }
    let error = refused(config(2), 1);
    assert!(matches!(error, NetError::Files { pairs: 2, files: 1 }));
}

#[test]
fn a_file_that_is_no_tap_is_refused() {
    let Err(error) = Net::new(&config(1), files(1)) else {
        panic!("/dev/null was accepted");
    };
    assert_eq!(error.kind(), RefusalKind::Device);
    assert!(
        error
            .to_string()
            .starts_with("queue pair 0: the file is no tap: ")
    );
}

#[test]
fn there_is_no_timer_without_a_limit() {
    assert_eq!(Direction::new(&config(1).receive).unwrap().timer(), None);
}
