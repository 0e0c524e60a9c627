use super::{allow, kib};

#[test]
fn sizes_are_read_as_cgroups_write_them() {
    let sizes = [("64KB", 64), ("2MB", 2048), ("1GB", 1 << 20)];
    for (size, expected) in sizes {
        assert_eq!(kib(size), Some(expected), "{size}");
    }
    for size in ["2M", "MB", "-2MB", "../2MB", "99999999999999999999GB"] {
        assert_eq!(kib(size), None, "{size}");
    }
}

#[test]
fn a_size_that_no_kernel_has_is_an_error() {
    assert!(allow("3MB").is_err());
}
