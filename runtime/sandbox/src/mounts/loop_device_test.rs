use std::fs;
use std::io::{Read, Write};

use super::{LoopConfig, LoopDevice};

#[test]
fn the_structure_is_as_long_as_the_kernels() {
    assert_eq!(size_of::<LoopConfig>(), 304);
}

#[test]
fn a_file_is_a_device_until_it_is_let_go_of() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 4096]).unwrap();
    let device = match LoopDevice::of(file.path()) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("skipped: no loop device can be made ({error}), needs root");
            return;
        }
    };
    let other = LoopDevice::of(file.path()).unwrap();
    assert_ne!(device.path(), other.path());
    let mut content = Vec::new();
    let mut opened = fs::File::open(device.path()).unwrap();
    opened.read_to_end(&mut content).unwrap();
    assert_eq!(content, [7; 4096]);
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let attribute =
        |name: &str, what: &str| fs::read_to_string(format!("/sys/block/{name}/{what}"));
    assert_eq!(attribute(name, "ro").unwrap().trim(), "1");
    assert_eq!(attribute(name, "loop/autoclear").unwrap().trim(), "1");
}
