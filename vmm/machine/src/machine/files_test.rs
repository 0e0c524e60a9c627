use std::fs::File;
use std::os::fd::OwnedFd;

use caisson_control::FileRole;

use super::{Files, FilesError};

fn files(count: usize) -> Vec<OwnedFd> {
    let null = || File::open("/dev/null").unwrap().into();
    std::iter::repeat_with(null).take(count).collect()
}

fn sort(roles: &[FileRole]) -> Result<Files, FilesError> {
    Files::sort(roles, 0, files(roles.len()))
}

#[test]
fn files_go_to_their_places_in_any_order() {
    let roles = [
        FileRole::Initrd,
        FileRole::Kernel,
        FileRole::Console,
        FileRole::Kvm,
    ];
    let sorted = Files::sort(&roles, 3, files(7)).unwrap();
    assert!(sorted.initrd.is_some() && sorted.console.is_some());
    assert_eq!(sorted.devices.len(), 3);
}

#[test]
fn the_number_of_files_must_be_right() {
    let roles = [FileRole::Kvm, FileRole::Kernel];
    for count in [0, 1, 2, 4] {
        assert!(matches!(
            Files::sort(&roles, 1, files(count)),
            Err(FilesError::Count { described: 3, files }) if files == count
        ));
    }
}

#[test]
fn kvm_and_kernel_must_be_there() {
    let missing = |roles: &[FileRole]| match sort(roles) {
        Err(FilesError::Missing(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&[FileRole::Kernel]), "/dev/kvm");
    assert_eq!(missing(&[FileRole::Kvm]), "the kernel");
}

#[test]
fn nothing_may_come_twice() {
    for role in [
        FileRole::Kvm,
        FileRole::Kernel,
        FileRole::Initrd,
        FileRole::Console,
        FileRole::Memory,
    ] {
        let roles = [FileRole::Kvm, FileRole::Kernel, role.clone(), role];
        assert!(matches!(sort(&roles), Err(FilesError::Twice(_))));
    }
}
