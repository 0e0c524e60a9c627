use protobuf::Message;

use super::message;

#[test]
fn containerd_can_read_the_name_and_the_version() {
    let bytes = message().write_to_bytes().unwrap();
    // Field 1 the name, field 2 a message with field 1 the version.
    let mut golden = b"\x0a\x18io.containerd.caisson.v2\x12".to_vec();
    let version = env!("CARGO_PKG_VERSION");
    golden.push(u8::try_from(version.len() + 2).unwrap());
    golden.push(0x0a);
    golden.push(u8::try_from(version.len()).unwrap());
    golden.extend_from_slice(version.as_bytes());
    assert_eq!(bytes, golden);
}
