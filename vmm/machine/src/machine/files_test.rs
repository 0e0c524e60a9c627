use std::fs::File;
use std::os::fd::OwnedFd;

use caisson_control::FileRole;

use super::{Files, FilesError};

fn files(count: usize) -> Vec<OwnedFd> {
    let null = || File::open("/dev/null").unwrap().into();
    std::iter::repeat_with(null).take(count).collect()
}

fn server(tag: &str) -> FileRole {
    FileRole::FileServer {
        tag: tag.to_owned(),
    }
}

fn sort(roles: &[FileRole]) -> Result<Files, FilesError> {
    Files::sort(roles, files(roles.len()))
}

#[test]
fn files_go_to_their_places_in_any_order() {
    let sorted = sort(&[
        server("b"),
        FileRole::Initrd,
        FileRole::Kernel,
        server("a"),
        FileRole::Console,
        FileRole::Kvm,
    ])
    .unwrap();
    assert!(sorted.initrd.is_some() && sorted.console.is_some());
    let tags: Vec<&str> = sorted.servers.iter().map(|(tag, _)| tag.as_str()).collect();
    assert_eq!(tags, ["b", "a"]);
}

#[test]
fn the_number_of_files_must_be_right() {
    let roles = [FileRole::Kvm, FileRole::Kernel];
    for count in [0, 1, 3] {
        assert!(matches!(
            Files::sort(&roles, files(count)),
            Err(FilesError::Count { roles: 2, files }) if files == count
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
    let roles = [FileRole::Kvm, FileRole::Kernel, server("x"), server("x")];
    assert!(matches!(sort(&roles), Err(FilesError::TagTwice(tag)) if tag == "x"));
}

#[test]
fn tags_have_1_to_36_bytes() {
    for length in [1, 36] {
        let roles = [FileRole::Kvm, FileRole::Kernel, server(&"t".repeat(length))];
        assert!(sort(&roles).is_ok());
    }
    for length in [0, 37, 40_000] {
        let roles = [FileRole::Kvm, FileRole::Kernel, server(&"t".repeat(length))];
        assert!(matches!(sort(&roles), Err(FilesError::Tag(_))));
    }
}
