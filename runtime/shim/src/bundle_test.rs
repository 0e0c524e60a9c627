use super::Bundle;
use crate::host_cgroup::GroupPath;
use crate::options::Options;

fn bundle(config: Option<&str>) -> (tempfile::TempDir, Bundle) {
    let dir = tempfile::tempdir().unwrap();
    if let Some(config) = config {
        std::fs::write(dir.path().join("config.json"), config).unwrap();
    }
    let bundle = Bundle::new(dir.path());
    (dir, bundle)
}

#[test]
fn a_configuration_is_read_with_its_annotations() {
    let (_dir, bundle) = bundle(Some(
        r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"annotations":{"a":"b"}}"#,
    ));
    assert_eq!(bundle.annotations().unwrap()["a"], "b");
    let spec = bundle.spec().unwrap();
    assert_eq!(
        spec.root().as_ref().unwrap().path().to_str(),
        Some("rootfs")
    );
}

#[test]
fn a_mistake_is_named_with_file_and_position() {
    let (_dir, bundle) = bundle(Some(
        "{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": 7\n}\n",
    ));
    let error = bundle.spec().unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    assert!(error.contains("line 3 column 14"), "{error}");
    assert!(error.contains("invalid type: integer `7`"), "{error}");
    assert_eq!(error.matches("line").count(), 1, "{error}");
}

#[test]
fn truncated_json_is_an_error_for_start_too() {
    let (_dir, bundle) = bundle(Some(r#"{"annotations":{"#));
    let error = bundle.annotations().unwrap_err().to_string();
    assert!(error.contains("line 1 column 16"), "{error}");
}

#[test]
fn no_configuration_means_no_annotations_but_no_container() {
    let (_dir, bundle) = bundle(None);
    assert!(bundle.annotations().unwrap().is_empty());
    let error = bundle.spec().unwrap_err().to_string();
    assert!(error.contains("cannot read"), "{error}");
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn what_the_shim_records_is_read_back() {
    let (dir, bundle) = bundle(None);
    assert_eq!(bundle.address(), None);
    assert_eq!(bundle.init_pid(), None);
    bundle.write_address("unix:///run/containerd/s/x").unwrap();
    bundle.write_init_pid(42).unwrap();
    bundle.mark_oom().unwrap();
    assert_eq!(bundle.address().unwrap(), "unix:///run/containerd/s/x");
    assert_eq!(bundle.init_pid(), Some(42));
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["address", "init.pid", "oom"],
        "nothing temporary stays"
    );
}

#[test]
fn a_damaged_record_is_no_record() {
    let (dir, bundle) = bundle(None);
    std::fs::write(dir.path().join("init.pid"), "x").unwrap();
    std::fs::write(dir.path().join("address"), "\n").unwrap();
    assert_eq!(bundle.init_pid(), None);
    assert_eq!(bundle.address(), None);
}

#[test]
fn the_address_is_also_where_containerd_keeps_the_answer_of_start() {
    let (dir, bundle) = bundle(None);
    let write = |text: &str| std::fs::write(dir.path().join("bootstrap.json"), text).unwrap();
    for damaged in ["", "{", "{}", "[]"] {
        write(damaged);
        assert_eq!(bundle.address(), None, "{damaged}");
    }
    write(r#"{"version":3,"address":"unix:///run/containerd/s/x","protocol":"ttrpc"}"#);
    assert_eq!(bundle.address().unwrap(), "unix:///run/containerd/s/x");
    bundle.write_address("unix:///run/containerd/s/y").unwrap();
    assert_eq!(bundle.address().unwrap(), "unix:///run/containerd/s/y");
}

#[test]
fn a_pod_of_the_sandbox_service_is_known_by_its_mark() {
    let (_dir, bundle) = bundle(None);
    assert!(bundle.is_without_config());
    assert_eq!(bundle.pod(), None);
    bundle.mark_pod(None).unwrap();
    assert_eq!(bundle.pod(), Some(None));
    let group = GroupPath::of_pod("/kubepods/pod1", "p").unwrap();
    bundle.mark_pod(Some(&group)).unwrap();
    assert_eq!(bundle.pod(), Some(Some(group)));
}

#[test]
fn options_that_are_damaged_are_no_reason_to_guess() {
    let (_dir, bundle) = bundle(None);
    assert_eq!(bundle.runtime_options(), Ok(Options::default()));
    bundle.write_runtime_options(b"\xff").unwrap();
    let error = bundle.runtime_options().unwrap_err();
    assert!(error.contains("cannot be decoded"), "{error}");
}
