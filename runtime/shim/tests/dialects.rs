//! P15: what the program prints, byte by byte, for each way in which somebody runs it.
//!
//! Requests and answers are written out here rather than made with the library that the program
//! uses: what both would get wrong in the same way shows only like this.
//!
//! Needs root: every run gets a mount namespace with an empty /run, so that the address of its
//! socket is the same on every machine and nobody else's shim is near.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-caisson-v2");

/// `sha256("/run/containerd/containerd.sock/default/p15")`, in containerd's directory for sockets.
const ADDRESS: &str = "unix:///run/containerd/s/\
    acb92dab9fbc4af76c00181f283dfd7470aef6387fafceb03aee271c6933cf62";
/// `sha256("default/p15")`: CRI-O gives no address.
const ADDRESS_FOR_CRIO: &str = "unix:///run/containerd/s/\
    ac295623b56c3ebc75674b8151c5984b29eacadd73cdf9e2a5e1669bdb7590ac";
/// The first socket in a directory that the parameters prescribe.
const ADDRESS_IN_P15: &str = "unix:///run/p15/\
    acb92dab9fbc4af76c00181f283dfd7470aef6387fafceb03aee271c6933cf62";

/// `Any`: field 1 the type URL, field 2 the options, here with field 2 a path.
const GENERIC_OPTIONS: &[u8] = b"\x0a\x19runtimeoptions.v1.Options\x12\x12\x12\x10/etc/config.toml";
/// Options for runc, which clients send to any runtime: field 3 true.
const RUNC_OPTIONS: &[u8] = b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x18\x01";
/// `BootstrapParams` as containerd 2.3 writes them: 1 id, 2 namespace, 4 version, 5 and 6
/// containerd's sockets, 7 its program.
const PARAMETERS: &[u8] = b"\x0a\x03p15\x12\x07default\x22\x06v2.3.0\
    \x2a\x25/run/containerd/containerd.sock.ttrpc\x32\x1f/run/containerd/containerd.sock\
    \x3a\x13/usr/bin/containerd";
/// Further: 3 the level DEBUG (-4), 8 an extension with the runtime's options.
const PARAMETERS_WITH_OPTIONS: &[u8] = b"\x0a\x03p15\x12\x07default\
    \x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01\x22\x06v2.4.0\
    \x42\x31\x0a\x2f\x0a\x19runtimeoptions.v1.Options\x12\x12\x12\x10/etc/config.toml";
/// Further: 9 a directory for the socket.
const PARAMETERS_WITH_DIRECTORY: &[u8] = b"\x0a\x03p15\x12\x07default\x4a\x08/run/p15";
const PARAMETERS_FOR_ANOTHER_ID: &[u8] = b"\x0a\x03p16\x12\x07default";
const PARAMETERS_FOR_ANOTHER_NAMESPACE: &[u8] = b"\x0a\x03p15\x12\x06k8s.io";

/// Standard input of a run.
#[derive(Debug, Clone, Copy)]
enum Input {
    Closed,
    Null,
    Bytes(&'static [u8]),
}

/// `MAX_SHIM_VERSION`, where the caller sets it.
type MaxVersion = Option<&'static str>;

fn bare(address: &str) -> Vec<u8> {
    address.as_bytes().to_vec()
}

fn json(address: &str) -> Vec<u8> {
    json_version(2, address)
}

fn json_version(version: u32, address: &str) -> Vec<u8> {
    format!(r#"{{"version":{version},"address":"{address}","protocol":"ttrpc"}}"#).into_bytes()
}

/// `BootstrapResult`: field 1 version 3, field 2 the address, field 3 the protocol.
fn protobuf(address: &str) -> Vec<u8> {
    let length = u8::try_from(address.len()).unwrap();
    let head: &[u8] = &[0x08, 3, 0x12, length];
    [head, address.as_bytes(), b"\x1a\x05ttrpc"].concat()
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: an empty /run needs a mount namespace, which needs root");
    }
    root
}

/// A bundle in which the program is run.
struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new() -> Self {
        let bundle = Self(tempfile::tempdir().unwrap());
        fs::write(bundle.path("config.json"), r#"{"ociVersion":"1.0.2"}"#).unwrap();
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program with `arguments`. Standard error goes where standard output goes, since
    /// containerd reads both as the answer, and the output ends when the last who holds it lets go.
    fn run(&self, arguments: &[&str], input: Input, max: MaxVersion) -> Output {
        let close = if matches!(input, Input::Closed) {
            "exec <&-; "
        } else {
            ""
        };
        let script = format!("mount -t tmpfs tmpfs /run && {close}exec \"$0\" \"$@\" 2>&1");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(PROGRAM)
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("MAX_SHIM_VERSION")
            .env("TTRPC_ADDRESS", "")
            .stdin(Stdio::null());
        if let Some(max) = max {
            command.env("MAX_SHIM_VERSION", max);
        }
        if let Input::Bytes(bytes) = input {
            let file = self.path("input");
            fs::write(&file, bytes).unwrap();
            command.stdin(fs::File::open(file).unwrap());
        }
        command.output().unwrap()
    }

    fn start(&self, address: &str, input: Input, max: MaxVersion) -> Output {
        let flags = ["-namespace", "default", "-address", address];
        let more = ["-publish-binary", "/usr/bin/containerd", "-id", "p15"];
        self.run(&[&flags[..], &more, &["start"]].concat(), input, max)
    }

    /// The process id of the shim, known to serve at `address` in its own view of /run.
    fn shim(&self, address: &str) -> Option<Shim> {
        let pid = fs::read_to_string(self.path("shim.pid")).ok()?;
        let socket = address.strip_prefix("unix://")?;
        UnixStream::connect(format!("/proc/{pid}/root{socket}")).ok()?;
        Some(Shim(pid))
    }
}

/// A shim that ends with the test, and with it its /run.
struct Shim(String);

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.0]).status();
    }
}

#[test]
fn p15_start_answers_every_input_and_environment_in_the_dialect_of_who_asks() {
    if !root() {
        return;
    }
    // None of these is a request of containerd 2.3: the environment decides.
    let older = [
        Input::Closed,
        Input::Null,
        Input::Bytes(b""),
        Input::Bytes(GENERIC_OPTIONS),
        Input::Bytes(RUNC_OPTIONS),
        Input::Bytes(PARAMETERS_FOR_ANOTHER_ID),
        Input::Bytes(PARAMETERS_FOR_ANOTHER_NAMESPACE),
        Input::Bytes(b"\xff\xff\xff\xff not a message"),
    ];
    let newer = [
        (PARAMETERS, ADDRESS),
        (PARAMETERS_WITH_OPTIONS, ADDRESS),
        (PARAMETERS_WITH_DIRECTORY, ADDRESS_IN_P15),
    ];
    // 1.6 sets nothing, 1.7 to 2.2 say 2; a 3 would still be no request for protobuf.
    for max in [None, Some("2"), Some("3")] {
        let expected = match max {
            None => bare(ADDRESS),
            Some(_) => json(ADDRESS),
        };
        for input in older {
            assert_answer(
                "/run/containerd/containerd.sock",
                input,
                max,
                ADDRESS,
                &expected,
            );
        }
        for (parameters, address) in newer {
            let input = Input::Bytes(parameters);
            let expected = protobuf(address);
            assert_answer(
                "/run/containerd/containerd.sock",
                input,
                max,
                address,
                &expected,
            );
        }
    }
    let expected = bare(ADDRESS_FOR_CRIO);
    assert_answer("", Input::Null, None, ADDRESS_FOR_CRIO, &expected);
}

fn assert_answer(containerd: &str, input: Input, max: MaxVersion, address: &str, expected: &[u8]) {
    let who = format!("{input:?} with MAX_SHIM_VERSION {max:?}");
    let bundle = Bundle::new();
    let output = bundle.start(containerd, input, max);
    let shim = bundle.shim(address);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{who}: {said}");
    assert!(
        output.stdout == expected,
        "{who}: {said:?} instead of {:?}",
        String::from_utf8_lossy(expected)
    );
    assert!(shim.is_some(), "{who}: nobody listens");
    // The same for everybody: what 1.6, 1.7 and CRI-O read after a restart.
    let recorded = fs::read_to_string(bundle.path("address")).unwrap();
    assert_eq!(recorded, address, "{who}");
}

#[test]
fn p15_a_pod_of_the_sandbox_service_is_version_3_for_who_has_that() {
    if !root() {
        return;
    }
    let containerd = "/run/containerd/containerd.sock";
    let cases = [
        (Input::Null, Some("2"), json_version(3, ADDRESS)),
        (
            Input::Bytes(GENERIC_OPTIONS),
            Some("2"),
            json_version(3, ADDRESS),
        ),
        (
            Input::Bytes(PARAMETERS_WITH_OPTIONS),
            Some("2"),
            protobuf(ADDRESS),
        ),
        // Nobody who reads only this has the service, but it is what they read.
        (Input::Null, None, bare(ADDRESS)),
    ];
    for (input, max, expected) in cases {
        let bundle = Bundle::new();
        // containerd writes none for such a pod.
        fs::remove_file(bundle.path("config.json")).unwrap();
        let output = bundle.start(containerd, input, max);
        let _shim = bundle.shim(ADDRESS).unwrap();
        assert_eq!(output.stdout, expected, "{input:?}");
        // The options come once, and not with the request that makes the pod.
        let options = fs::read(bundle.path("options.pb")).ok();
        let given = !matches!(input, Input::Null);
        assert_eq!(options.as_deref(), given.then_some(GENERIC_OPTIONS));
    }
}

#[test]
fn p15_start_refuses_in_one_sentence_and_with_an_exit_code() {
    if !root() {
        return;
    }
    let refused = |output: Output, sentence: &str| {
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), sentence);
    };
    let bundle = Bundle::new();
    let path = bundle.path("config.json").display().to_string();
    fs::write(&path, "{").unwrap();
    let sentence = format!(
        "{path} is not a valid OCI configuration, at line 1 column 1: EOF while parsing an object\n"
    );
    let output = bundle.start("", Input::Bytes(PARAMETERS), Some("2"));
    refused(output, &sentence);

    let bundle = Bundle::new();
    let long = Input::Bytes(Box::leak(vec![0; (4 << 20) + 1].into_boxed_slice()));
    let output = bundle.start("", long, None);
    refused(output, "standard input is longer than 4194304 bytes\n");
    assert!(!bundle.path("shim.pid").exists());
}

#[test]
fn p15_info_is_one_message_whatever_the_input() {
    if !root() {
        return;
    }
    // RuntimeInfo: field 1 the name, field 2 a message with field 1 the version, field 5 the
    // annotations, of which there is one.
    let version = env!("CARGO_PKG_VERSION");
    let length = u8::try_from(version.len()).unwrap();
    let name = b"\x0a\x18io.containerd.caisson.v2".as_slice();
    let head: &[u8] = &[0x12, length + 2, 0x0a, length];
    let mounts =
        b"\x2a\x3c\x0a\x22containerd.io/runtime-allow-mounts\x12\x16mkdir/*,format/*,erofs";
    let expected = [name, head, version.as_bytes(), mounts.as_slice()].concat();
    let bundle = Bundle::new();
    for input in [
        Input::Closed,
        Input::Null,
        Input::Bytes(GENERIC_OPTIONS),
        Input::Bytes(RUNC_OPTIONS),
    ] {
        for flag in ["-info", "--info", "-info=true"] {
            let output = bundle.run(&[flag], input, Some("2"));
            assert!(output.status.success());
            assert_eq!(output.stdout, expected, "{flag} with {input:?}");
        }
    }
}

#[test]
fn p15_delete_prints_a_message_and_nothing_else_when_there_is_nothing() {
    if !root() {
        return;
    }
    let bundle = Bundle::new();
    fs::remove_file(bundle.path("config.json")).unwrap();
    // DeleteResponse: field 1 the pid unless it is 0, field 2 status 137, field 3 the time.
    assert_deleted(&bundle, &[0x10, 0x89, 0x01]);
    assert_deleted(&bundle, &[0x10, 0x89, 0x01]);
    fs::write(bundle.path("init.pid"), "4321").unwrap();
    assert_deleted(&bundle, &[0x08, 0xe1, 0x21, 0x10, 0x89, 0x01]);
    fs::write(bundle.path("init.pid"), "no number").unwrap();
    assert_deleted(&bundle, &[0x10, 0x89, 0x01]);
}

#[track_caller]
fn assert_deleted(bundle: &Bundle, before_the_time: &[u8]) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let path = bundle.0.path().display().to_string();
    let flags = ["-namespace", "default", "-id", "p15", "-bundle", &path];
    let began = now();
    let output = bundle.run(&[&flags[..], &["delete"]].concat(), Input::Null, Some("2"));
    let ended = now();
    assert!(output.status.success());
    let time = output.stdout.strip_prefix(before_the_time);
    let time = time.unwrap_or_else(|| panic!("{:x?}", output.stdout));
    // Timestamp: field 1 the seconds, field 2 the nanoseconds unless they are 0.
    assert_eq!(time[0], 0x1a);
    assert_eq!(usize::from(time[1]), time.len() - 2);
    let (seconds, rest) = varint(&time[3..]);
    let nanoseconds = match rest {
        [] => 0,
        [0x10, rest @ ..] => varint(rest).0,
        other => panic!("{other:x?}"),
    };
    assert_eq!(time[2], 0x08);
    let exited = std::time::Duration::new(seconds, u32::try_from(nanoseconds).unwrap());
    assert!(
        (began..=ended).contains(&exited),
        "{exited:?} is not between {began:?} and {ended:?}"
    );
}

/// A number as protobuf writes it, and what follows.
fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let length = 1 + bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let (number, rest) = bytes.split_at(length);
    let value = number
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 7) | u64::from(byte & 0x7f));
    (value, rest)
}
