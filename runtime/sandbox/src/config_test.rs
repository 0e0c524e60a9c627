use std::fs;
use std::path::Path;

use super::{Config, ConfigError, Ids};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/caisson/config.toml"))
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("[vm]\n[debug]\n").unwrap(), Config::default());
}

#[test]
fn every_key_is_taken() {
    let config = parse(
        "kernel = '/k'\ninitrd = '/i'\nvmm = '/v'\nfile_server = '/f'\n\
         pod_process = '/p'\n\
         [vm]\nvcpus = 4\nmemory_mib = 512\nmax_vcpus = 8\nmax_memory_mib = 4096\nkernel_parameters = 'a=1 b'\n\
         [jail]\nfirst_id = 70000\nids = 1000\n\
         [containers]\ndefault_filter = false\n\
         [debug]\nconsole_dir = '/var/log/caisson'\n",
    )
    .unwrap();
    assert_eq!(
        config,
        Config {
            kernel: "/k".into(),
            initrd: "/i".into(),
            vmm: "/v".into(),
            file_server: "/f".into(),
            pod_process: "/p".into(),
            vcpus: 4,
            memory_mib: 512,
            max_vcpus: Some(8),
            max_memory_mib: Some(4096),
            kernel_parameters: "a=1 b".into(),
            ids: Ids {
                first: 70_000,
                count: 1000,
            },
            default_filter: false,
            console_dir: Some("/var/log/caisson".into()),
        }
    );
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_key() {
    let long = format!("[vm]\nkernel_parameters = '{}'\n", "x".repeat(2000));
    for (text, line, words) in [
        (
            "# a\nkernle = '/k'\n",
            2,
            &["kernle", "`kernel`", "`initrd`", "`file_server`"][..],
        ),
        (
            "[vm]\nmemory = 1\n",
            2,
            &["memory", "`vcpus`", "`memory_mib`"],
        ),
        (
            "[jail]\nfirst_id = 0\n",
            2,
            &["first_id", "0", "1000 to 4000000000"],
        ),
        ("[jail]\nids = 0\n", 2, &["`ids`", "0", "1 to 16777216"]),
        (
            "[containers]\ndefault_filter = 1\n",
            2,
            &["default_filter", "boolean"],
        ),
        ("[vm]\nvcpus = 0\n", 2, &["vcpus", "0", "1 to 32"]),
        ("[vm]\nvcpus = 33\n", 2, &["33", "1 to 32"]),
        ("[vm]\nvcpus = 257\n", 2, &["257", "1 to 32"]),
        (
            "[vm]\n\nmemory_mib = 63\n",
            3,
            &["memory_mib", "63", "64 to 1048576"],
        ),
        ("[vm]\nmax_vcpus = 33\n", 2, &["max_vcpus", "33", "1 to 32"]),
        ("[vm]\nmax_memory_mib = 63\n", 2, &["63", "64 to 1048576"]),
        ("[vm]\nmemory_mib = -1\n", 2, &["-1", "64 to 1048576"]),
        ("[vm]\nvcpus = 'two'\n", 2, &["vcpus", "string"]),
        (
            "initrd = 'boot/initrd'\n",
            1,
            &["initrd", "boot/initrd", "absolute"],
        ),
        (
            "[vm]\nkernel_parameters = \"a\\nb\"\n",
            2,
            &["kernel_parameters", "printable"],
        ),
        (&long, 2, &["kernel_parameters", "2000", "1024"]),
        ("kernel\n", 1, &["kernel"]),
        ("vm = 3\n", 1, &["vm"]),
    ] {
        let error = parse(text).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&format!("/etc/caisson/config.toml, line {line}")),
            "{message}"
        );
        for word in words {
            assert!(message.contains(word), "{word} in {message}");
        }
        assert!(matches!(error, ConfigError::Content { .. }));
    }
}

#[test]
fn a_file_asked_for_by_name_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mine.toml");
    let message = Config::load(Some(&path)).unwrap_err().to_string();
    assert!(message.contains("mine.toml") && message.contains("No such file"));

    fs::write(&path, "[vm]\nvcpus = 2\n").unwrap();
    assert_eq!(Config::load(Some(&path)).unwrap().vcpus, 2);
}
