use std::fs;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{add_to, write};
use crate::pod_config::PodConfig;

fn mounts(spec: &Value, bundle: &std::path::Path) -> Vec<(String, Value)> {
    let mut spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    add_to(&mut spec, bundle);
    let spec = serde_json::to_value(spec).unwrap();
    let mounts = spec["mounts"].as_array().unwrap().iter();
    mounts
        .map(|mount| {
            let destination = mount["destination"].as_str().unwrap().to_owned();
            (destination, mount["options"].clone())
        })
        .collect()
}

#[test]
fn a_container_gets_the_files_of_its_pod_where_it_has_none() {
    let bundle = tempfile::tempdir().unwrap();
    let root = |read_only: bool| json!({"path": "rootfs", "readonly": read_only});
    let spec = json!({"ociVersion": "1.1.0", "root": root(false), "mounts": [
        {"destination": "/etc/hosts", "type": "bind", "source": "/kubelet/hosts", "options": ["rbind"]}]});
    let own = [("/etc/hosts".to_owned(), json!(["rbind"]))];
    assert_eq!(mounts(&spec, bundle.path()), own, "there are no files yet");

    let config = PodConfig {
        hostname: "web".into(),
        ..PodConfig::default()
    };
    write(bundle.path(), &config).unwrap();
    let read = |name: &str| fs::read_to_string(bundle.path().join("etc").join(name)).unwrap();
    assert_eq!(read("hostname"), "web\n");
    let host = fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert_eq!(read("hosts"), host);
    let expected = |access: &str| {
        ["/etc/hostname", "/etc/resolv.conf"].map(|name| (name.to_owned(), json!(["bind", access])))
    };
    assert_eq!(
        mounts(&spec, bundle.path()),
        [&own[..], &expected("rw")].concat()
    );
    let spec = json!({"ociVersion": "1.1.0", "root": root(true)});
    let all = mounts(&spec, bundle.path());
    assert_eq!(all.len(), 3);
    assert!(all.contains(&expected("ro")[0]));
}

#[test]
fn a_pod_without_a_name_has_the_hosts() {
    let bundle = tempfile::tempdir().unwrap();
    write(bundle.path(), &PodConfig::default()).unwrap();
    let name = fs::read_to_string(bundle.path().join("etc/hostname")).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(name, host);
}
