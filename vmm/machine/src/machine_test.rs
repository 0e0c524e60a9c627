//! Refusals, which need neither KVM nor a kernel.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use caisson_control::{BootConfig, DiskConfig, FileRole, Limits, RefusalKind, VERSION};

use super::{BootError, Machine, devices};
use crate::boot::test_kernel::test_kernel;
use crate::virtio::device::DeviceKind;

fn config() -> BootConfig {
    BootConfig {
        version: VERSION,
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: 64,
        hotplug_memory_mib: 0,
        virtio_console: false,
        cmdline: "quiet".to_owned(),
        guest_cid: 3,
        files: vec![FileRole::Kvm, FileRole::Kernel],
        devices: Vec::new(),
    }
}

fn file(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.into()
}

/// Builds with files that are neither KVM nor a kernel.
fn refusal(config: &BootConfig) -> BootError {
    let files = config.files.iter().map(|_| file(b"nothing of use"));
    build(config, files.collect())
}

fn build(config: &BootConfig, files: Vec<OwnedFd>) -> BootError {
    let (sender, _receiver) = crate::events::channel().unwrap();
    match Machine::build(config, files, &sender) {
        Ok(_) => panic!("nothing was wrong"),
        Err(error) => error,
    }
}

#[test]
fn what_is_out_of_range_is_refused_by_value() {
    type Change = fn(&mut BootConfig);
    let wrong: [(Change, &str); 10] = [
        (|config| config.version = 99, "99"),
        (|config| config.vcpus = 0, "0 vCPUs"),
        (|config| config.vcpus = 33, "33 vCPUs"),
        (|config| config.max_vcpus = 0, "at most 0 vCPUs"),
        (|config| config.max_vcpus = 33, "1 to 32"),
        (|config| config.memory_mib = 63, "63 MiB"),
        (
            |config| config.hotplug_memory_mib = 100,
            "100 MiB of hot-plug memory: it must be a multiple of 128",
        ),
        (|config| config.guest_cid = 2, "id 2"),
        (|config| config.cmdline = "x".repeat(2048), "2048"),
        (
            |config| config.cmdline = "a\0b".to_owned(),
            "zero byte at 1",
        ),
    ];
    for (change, part) in wrong {
        let mut config = config();
        change(&mut config);
        let error = refusal(&config);
        assert_eq!(error.kind(), RefusalKind::Invalid, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn missing_files_are_named() {
    let mut config = config();
    config.files = vec![FileRole::Kernel];
    let error = refusal(&config);
    assert_eq!(error.kind(), RefusalKind::Invalid);
    assert!(error.to_string().contains("/dev/kvm"), "{error}");
}

#[test]
fn a_file_that_is_no_kernel_is_a_kernel_refusal() {
    let error = refusal(&config());
    assert_eq!(error.kind(), RefusalKind::Kernel);
    assert!(error.to_string().contains("not an ELF file"), "{error}");
}

#[test]
fn a_file_that_is_not_kvm_is_a_kvm_refusal() {
    let null = File::options().read(true).write(true).open("/dev/null");
    for kvm in [null.unwrap().into(), file(b"")] {
        let error = build(&config(), vec![kvm, file(&test_kernel(&[0xf4]))]);
        assert_eq!(error.kind(), RefusalKind::Kvm);
        assert!(error.to_string().contains("/dev/kvm"), "{error}");
    }
}

#[test]
fn an_initrd_that_does_not_fit_is_a_kernel_refusal() {
    let mut config = config();
    config.files.push(FileRole::Initrd);
    let initrd = tempfile::tempfile().unwrap();
    initrd.set_len(49 << 20).unwrap();
    let files = vec![file(b""), file(&test_kernel(&[0xf4])), initrd.into()];
    let error = build(&config, files);
    assert_eq!(error.kind(), RefusalKind::Kernel);
    assert!(error.to_string().contains("more memory"), "{error}");
}

#[test]
fn a_console_that_cannot_be_written_is_refused() {
    let mut config = config();
    config.files.push(FileRole::Console);
    let console = File::open("/dev/null").unwrap().into();
    let error = build(
        &config,
        vec![file(b""), file(&test_kernel(&[0xf4])), console],
    );
    assert_eq!(error.kind(), RefusalKind::Invalid);
    assert!(error.to_string().contains("console"), "{error}");
}

#[test]
fn a_disk_is_made_of_a_file_that_fits() {
    let disk = DiskConfig {
        id: "data".to_owned(),
        read_only: false,
        direct: false,
        queues: 1,
        limits: Limits::default(),
        parts: Vec::new(),
    };
    let make = |files: Vec<OwnedFd>| devices::disk(&disk, &mut files.into());
    let device = make(vec![file(&[0; 1024])]);
    assert_eq!(
        device.map(|device| device.kind()).unwrap(),
        DeviceKind::Block
    );
    for (files, kind, words) in [
        (vec![], RefusalKind::Invalid, "needs 1 files and 0 came"),
        (
            vec![file(&[0; 1000])],
            RefusalKind::Device,
            "disk \"data\": its file has 1000 bytes",
        ),
    ] {
        let Err(error) = make(files) else {
            panic!("{words}")
        };
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(words), "{error}");
    }
}
