use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message};

use super::{Bootstrap, Dialect};

const ADDRESS: &str = "unix:///run/containerd/s/abc";

fn params(id: &str, namespace: &str) -> BootstrapParams {
    let mut params = BootstrapParams::new();
    params.instance_id = id.into();
    params.namespace = namespace.into();
    params.containerd_version = "v2.3.0".into();
    params.containerd_ttrpc_address = "/run/containerd/containerd.sock.ttrpc".into();
    params
}

fn options() -> Vec<u8> {
    let mut any = Any::new();
    any.type_url = "runtimeoptions.v1.Options".into();
    any.value = b"\x12\x10/etc/config.toml".to_vec();
    any.write_to_bytes().unwrap()
}

fn recognise(input: &[u8], max: Option<&str>) -> Bootstrap {
    Bootstrap::recognise(input, "c1", "default", max, Some("/env.ttrpc"))
}

/// Who asks, the input, `MAX_SHIM_VERSION`, and the answer.
type Case<'a> = (&'a str, &'a [u8], Option<&'a str>, &'a [u8]);

/// Input, `MAX_SHIM_VERSION`, and the answer each generation of containerd must get.
#[test]
fn each_generation_gets_its_answer() {
    let new = params("c1", "default").write_to_bytes().unwrap();
    let json = format!(r#"{{"version":2,"address":"{ADDRESS}","protocol":"ttrpc"}}"#);
    let cases: [Case<'_>; 6] = [
        ("1.6 and CRI-O", b"", None, ADDRESS.as_bytes()),
        ("1.6 with options", &options(), None, ADDRESS.as_bytes()),
        ("1.7 and 2.0", b"", Some("2"), json.as_bytes()),
        (
            "1.7 and 2.0 with options",
            &options(),
            Some("2"),
            json.as_bytes(),
        ),
        ("not protobuf", b"\xff\xff\xff", Some("2"), json.as_bytes()),
        (
            "a v3 manager without params",
            b"",
            Some("3"),
            json.as_bytes(),
        ),
    ];
    for (name, input, max, expected) in cases {
        let answer = recognise(input, max).dialect.answer(ADDRESS).unwrap();
        assert_eq!(answer, expected, "{name}");
    }
    let bootstrap = recognise(&new, Some("2"));
    assert_eq!(bootstrap.dialect, Dialect::Bootstrap);
    // Field 1 varint 3, field 2 the address, field 3 "ttrpc": the bytes 2.3 reads.
    let mut golden = vec![0x08, 0x03, 0x12, 28];
    golden.extend_from_slice(ADDRESS.as_bytes());
    golden.extend_from_slice(b"\x1a\x05ttrpc");
    let answer = bootstrap.dialect.answer(ADDRESS).unwrap();
    assert_eq!(answer, golden);
    let result = BootstrapResult::parse_from_bytes(&answer).unwrap();
    assert_eq!((result.version, result.address.as_str()), (3, ADDRESS));
}

#[test]
fn parameters_for_somebody_else_are_not_ours() {
    for other in [params("c2", "default"), params("c1", "k8s.io")] {
        let bytes = other.write_to_bytes().unwrap();
        assert_eq!(recognise(&bytes, None).dialect, Dialect::Address);
    }
}

#[test]
fn parameters_win_over_the_environment() {
    let mut wanted = params("c1", "default");
    wanted.socket_dir = Some("/run/s".into());
    wanted.log_level = EnumOrUnknown::from_i32(-8);
    let bootstrap = recognise(&wanted.write_to_bytes().unwrap(), None);
    assert_eq!(bootstrap.socket_dir.as_deref(), Some("/run/s"));
    assert_eq!(
        bootstrap.ttrpc_address,
        "/run/containerd/containerd.sock.ttrpc"
    );
    assert!(bootstrap.debug);
}

#[test]
fn the_environment_fills_what_parameters_leave_open() {
    let mut wanted = params("c1", "default");
    wanted.containerd_ttrpc_address.clear();
    let bootstrap = recognise(&wanted.write_to_bytes().unwrap(), None);
    assert_eq!(bootstrap.ttrpc_address, "/env.ttrpc");
    assert!(!bootstrap.debug);
    assert_eq!(bootstrap.socket_dir, None);
}
