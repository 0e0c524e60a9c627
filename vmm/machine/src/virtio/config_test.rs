use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::SharedConfig;

fn read<const N: usize>(config: &SharedConfig, offset: usize) -> [u8; N] {
    let mut bytes = [0xee; N];
    config.read(offset, &mut bytes);
    bytes
}

#[test]
fn what_lies_behind_the_end_reads_as_zero_and_is_not_written() {
    let config = SharedConfig::new(vec![1, 2, 3]);
    assert_eq!(read(&config, 2), [3, 0, 0, 0]);
    assert_eq!(read(&config, usize::MAX), [0]);
    config.set(2, &[9, 9]);
    config.set(usize::MAX, &[9]);
    assert_eq!(read(&config, 0), [1, 2, 9, 0]);
    assert_eq!(config.length(), 3);
}

#[test]
fn a_change_by_the_device_changes_the_generation() {
    let config = SharedConfig::new(vec![0; 4]);
    let before = config.generation();
    config.clone().set(0, &[1]);
    assert_ne!(config.generation(), before);
}

#[test]
fn the_driver_writes_only_what_it_may() {
    let config = SharedConfig::new(vec![0; 4]);
    config.write(0, &[1, 1, 1, 1]);
    assert_eq!(read(&config, 0), [0; 4]);

    let wake = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let config = SharedConfig::with_writable(vec![0; 4], 1..3, Arc::clone(&wake));
    config.write(0, &[7]);
    config.write(usize::MAX, &[7, 7]);
    assert!(wake.read().is_err(), "nothing changed");
    config.write(0, &[7; 9]);
    assert_eq!(read(&config, 0), [0, 7, 7, 0]);
    assert!(wake.read().is_ok());
    assert_eq!(config.generation(), 0, "the driver knows what it wrote");
}
