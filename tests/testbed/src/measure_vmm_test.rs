use std::path::PathBuf;

use super::libraries;

#[test]
fn libraries_and_the_loader_are_files_and_the_vdso_is_not() {
    let listing = "\tlinux-vdso.so.1 (0x00007ffd)
\tlibaio.so.1 => /lib/x86_64-linux-gnu/libaio.so.1 (0x00007f12)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f13)
\tlibnone.so.1 => not found
";
    let found = [
        "/lib/x86_64-linux-gnu/libaio.so.1",
        "/lib64/ld-linux-x86-64.so.2",
    ];
    assert_eq!(libraries(listing), found.map(PathBuf::from));
}
