use protobuf::well_known_types::any::Any;

use super::Options;

fn any(type_url: &str, value: &[u8]) -> Any {
    let mut any = Any::new();
    any.type_url = type_url.into();
    any.value = value.to_vec();
    any
}

#[test]
fn generic_options_are_read() {
    // type_url "t", config_path "/c.toml", config_body "a=1", and a field of a later version.
    let bytes = b"\x0a\x01t\x12\x07/c.toml\x1a\x03a=1\x20\x05";
    for url in [
        "runtimeoptions.v1.Options",
        "types.x/runtimeoptions.v1.Options",
    ] {
        let options = Options::from_any(Some(&any(url, bytes))).unwrap();
        assert_eq!(options.config_path, "/c.toml");
        assert_eq!(options.config_body, b"a=1");
    }
}

#[test]
fn none_and_runcs_options_are_defaults() {
    assert_eq!(Options::from_any(None).unwrap(), Options::default());
    let empty = Options::from_any(Some(&Any::new())).unwrap();
    assert_eq!(empty, Options::default());
    let runc = any("containerd.runc.v1.Options", b"\x12\x01x");
    assert_eq!(Options::from_any(Some(&runc)).unwrap(), Options::default());
}

#[test]
fn damaged_options_are_an_error() {
    let cut = any("runtimeoptions.v1.Options", b"\x12\x7f/c");
    let error = Options::from_any(Some(&cut)).unwrap_err();
    assert!(error.contains("cannot be decoded"), "{error}");
}
