use super::of_file_system;

#[test]
fn what_a_file_system_says_is_told_and_nothing_else() {
    let record =
        "3,714,96318571,-;EXT4-fs (vda): VFS: Can't find ext4 filesystem\n SUBSYSTEM=block\n";
    assert_eq!(
        of_file_system(record).unwrap(),
        "EXT4-fs (vda): VFS: Can't find ext4 filesystem"
    );
    for other in [
        "6,1,2,-;virtio_blk virtio3: [vda] 8 blocks\n",
        "nonsense",
        "",
    ] {
        assert_eq!(of_file_system(other), None, "{other}");
    }
    let long = format!("3,1,2,-;erofs: {}", "x".repeat(1000));
    assert_eq!(of_file_system(&long).unwrap().len(), 200);
}
