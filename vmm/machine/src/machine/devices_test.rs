use std::fs::File;

use caisson_control::Limits;

use super::*;
use crate::devices::net::real_taps::{GOOD, make as tap, with_own_network};
use crate::virtio::device::DeviceKind;

fn network(queue_pairs: u8) -> NetConfig {
    NetConfig {
        mac: [2, 0, 0, 0, 0, 7],
        mtu: None,
        queue_pairs,
        receive: Limits::default(),
        transmit: Limits::default(),
    }
}

fn files(count: usize) -> VecDeque<OwnedFd> {
    let file = || File::open("/dev/null").unwrap().into();
    (0..count).map(|_| file()).collect()
}

#[test]
fn a_network_interface_takes_its_own_files_and_no_other() {
    with_own_network(|| {
        let mut files = files(1);
        files.push_front(tap("cable", GOOD));
        let device = net(&network(1), &mut files).unwrap();
        assert_eq!(device.kind(), DeviceKind::Net);
        assert_eq!(files.len(), 1);
    });
}

#[test]
fn a_network_interface_that_cannot_be_made_is_named_with_the_reason() {
    for (pairs, count, kind, said) in [
        (
            1,
            2,
            RefusalKind::Device,
            "queue pair 0: the file is no tap",
        ),
        (
            2,
            1,
            RefusalKind::Invalid,
            "2 queue pairs need one file each and 1 came with them",
        ),
        (0, 1, RefusalKind::Invalid, "0 queue pairs"),
    ] {
        let mut files = files(count);
        let Err(error) = net(&network(pairs), &mut files) else {
            panic!("{pairs} pairs of {count} files are accepted");
        };
        let text = error.to_string();
        assert!(
            text.starts_with("network interface 02:00:00:00:00:07: "),
            "{text}"
        );
        assert!(text.contains(said), "{text}");
        assert_eq!(error.kind(), kind, "{text}");
        let own = usize::from(pairs).min(count);
        assert_eq!(files.len(), count - own);
    }
}
