use protobuf::Message;

use super::message;

#[test]
fn containerd_can_read_the_name_the_version_and_the_mounts_it_is_to_leave() {
    let bytes = message().write_to_bytes().unwrap();
    // Field 1 the name, field 2 a message with field 1 the version.
    let mut golden = b"\x0a\x18io.containerd.caisson.v2\x12".to_vec();
    let version = env!("CARGO_PKG_VERSION");
    golden.push(u8::try_from(version.len() + 2).unwrap());
    golden.push(0x0a);
    golden.push(u8::try_from(version.len()).unwrap());
    golden.extend_from_slice(version.as_bytes());
    // Field 5 a map, of which each entry is a message with field 1 the key and field 2 the value.
    golden.extend_from_slice(b"\x2a\x3c\x0a\x22containerd.io/runtime-allow-mounts");
    golden.extend_from_slice(b"\x12\x16mkdir/*,format/*,erofs");
    assert_eq!(bytes, golden);
}
