use super::*;

fn machine(possible: &str, online: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("possible"), possible).unwrap();
    fs::create_dir(root.path().join("cpu0")).unwrap();
    for (index, value) in online.iter().enumerate() {
        let cpu = root.path().join(format!("cpu{}", index + 1));
        fs::create_dir(&cpu).unwrap();
        fs::write(cpu.join("online"), value).unwrap();
    }
    root
}

fn online(root: &tempfile::TempDir, cpu: u32) -> String {
    fs::read_to_string(root.path().join(format!("cpu{cpu}/online"))).unwrap()
}

#[test]
fn the_first_are_online_and_the_others_are_not() {
    let root = machine("0-3\n", &["0\n", "1\n", "1\n"]);
    set_online_below(root.path(), 3).unwrap();
    assert_eq!(online(&root, 1), "1");
    assert_eq!(online(&root, 2), "1\n", "it was and is not touched");
    assert_eq!(online(&root, 3), "0");
    set_online_below(root.path(), 1).unwrap();
    assert_eq!([1, 2, 3].map(|cpu| online(&root, cpu)), ["0", "0", "0"]);
}

#[test]
fn more_than_the_machine_can_have_is_refused() {
    let root = machine("0\n", &[]);
    set_online_below(root.path(), 1).unwrap();
    for count in [0, 2] {
        let error = set_online_below(root.path(), count).unwrap_err();
        assert!(matches!(error, AgentError::InvalidArgument(_)), "{error}");
        assert!(error.to_string().contains("1 to 1"), "{error}");
    }
}

#[test]
fn a_cpu_that_the_host_did_not_make_is_named() {
    let root = machine("0-2\n", &["0\n"]);
    let error = set_online_below(root.path(), 3).unwrap_err().to_string();
    assert!(error.contains("CPU 2"), "{error}");
}
