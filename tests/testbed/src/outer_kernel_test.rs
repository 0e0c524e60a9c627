use super::{load_order, payload};

#[test]
fn modules_come_after_what_they_depend_on_and_only_once() {
    let dependencies = "kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz\n\
        kernel/fs/netfs/netfs.ko.xz:\n\
        kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
        kernel/arch/x86/crypto/crc32c-intel.ko.xz:\n";
    assert_eq!(
        load_order(dependencies, &["9pnet", "9p", "crc32c_intel"]).unwrap(),
        [
            "kernel/fs/netfs/netfs.ko.xz",
            "kernel/net/9p/9pnet.ko.xz",
            "kernel/fs/9p/9p.ko.xz",
            "kernel/arch/x86/crypto/crc32c-intel.ko.xz",
        ]
    );
    let error = load_order(dependencies, &["zfs"]).unwrap_err();
    assert!(error.to_string().contains("zfs"), "{error}");
}

#[test]
fn the_payload_of_a_bzimage_is_where_its_header_says() {
    let mut image = vec![0_u8; 2048];
    image[0x1f1] = 1; // one sector of setup code behind the boot sector
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&9_u32.to_le_bytes());
    image[1040..1049].copy_from_slice(b"zstd!\x05\0\0\0");
    assert_eq!(payload(&image).unwrap(), b"zstd!");

    image[0x24c..0x250].copy_from_slice(&5000_u32.to_le_bytes());
    assert!(payload(&image).is_err(), "beyond the file");
    image[0x202] = 0;
    assert!(payload(&image).is_err(), "not a bzImage");
}
