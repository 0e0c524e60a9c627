use super::Phases;

#[test]
fn the_table_tells_when_and_how_long_in_order_of_time() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("c1");
    let phases = Phases::new("c1", state.clone());
    phases.reached_at("shim-start", 5_000_000_000);
    phases.reached_at("create-request", 5_002_000_000);
    assert!(!state.exists(), "the directory is the sandbox's to make");
    std::fs::create_dir(&state).unwrap();
    phases.reached_at("hello", 5_150_250_000);
    phases.reached_at("vmm-started", 5_010_000_000);
    phases.reached_at("hello", 9_000_000_000);
    let table = std::fs::read_to_string(state.join("phases")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[1..],
        [
            ["shim-start", "0.0", "0.0"],
            ["create-request", "2.0", "2.0"],
            ["vmm-started", "10.0", "8.0"],
            ["hello", "150.2", "140.2"],
        ]
    );
}

#[test]
fn other_containers_of_the_pod_are_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let phases = Phases::new("c1", dir.path().to_owned());
    phases.reached("c2", "output");
    assert!(!dir.path().join("phases").exists());
    phases.reached("c1", "output");
    assert!(dir.path().join("phases").exists());
}
