use std::path::Path;

use oci_spec::runtime::State;
use serde_json::json;

use super::StartHooks;

fn run(hooks: serde_json::Value) -> Result<(), String> {
    let hooks = StartHooks {
        hooks: serde_json::from_value(hooks).unwrap(),
        state: State::default(),
    };
    hooks
        .run(Path::new("/bundle"))
        .map_err(|error| error.to_string())
}

fn shell(script: &str) -> serde_json::Value {
    json!({"path": "/bin/sh", "args": ["a hook", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

#[test]
fn a_hook_gets_arguments_environment_and_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("seen");
    let script = format!("echo $0 $OWN $HOME >{0}; /bin/cat >>{0}", file.display());
    run(json!([{
        "path": "/bin/sh",
        "args": ["its name", "-c", script, "zero"],
        "env": ["OWN=variable"],
    }]))
    .unwrap();
    let seen = std::fs::read_to_string(file).unwrap();
    let (first, state) = seen.split_once('\n').unwrap();
    assert_eq!(first, "zero variable");
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], std::process::id());
    assert_eq!(state["bundle"], "/bundle");
}

#[test]
fn the_hook_that_fails_is_named_with_its_last_words_and_is_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("second");
    let message = run(json!([
        shell("yes nonsense | head -n 100000; echo 'no device' >&2; exit 3"),
        shell(&format!("touch {}", second.display())),
    ]))
    .unwrap_err();
    for words in [
        "startContainer hook /bin/sh of config.json failed with exit status: 3: ",
        "nonsense no device",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert!(message.len() < 1500 && !second.exists());
    let message = run(json!([{"path": "/no/such/hook"}])).unwrap_err();
    assert!(
        message.contains("/no/such/hook") && message.contains("No such file"),
        "{message}"
    );
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    let mut hook = shell("echo still waiting; exec sleep 1000");
    hook["timeout"] = json!(1);
    let message = run(json!([hook])).unwrap_err();
    assert!(message.contains("within 1 s"), "{message}");
}

#[test]
fn what_a_hook_leaves_running_does_not_delay_it() {
    // It holds the hook's output for longer than anybody waits for this test.
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join("left");
    run(json!([shell(&format!(
        "sleep 1000 & echo $! >{}",
        left.display()
    ))]))
    .unwrap();
    let left = std::fs::read_to_string(left).unwrap();
    let left = rustix::process::Pid::from_raw(left.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).expect("it still runs");
}
