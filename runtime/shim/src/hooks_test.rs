use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{HookError, Hooks, HooksRefused, HostMounts, run_due};
use crate::bundle::Bundle;

struct Bench {
    dir: tempfile::TempDir,
}

/// A hook that is a few words for the shell.
fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["a hook", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

fn spec(hooks: &Value) -> Spec {
    serde_json::from_value(json!({
        "ociVersion": "1.1.0",
        "annotations": {"a.key": "a value"},
        "hooks": hooks,
    }))
    .unwrap()
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn bundle(&self) -> Bundle {
        Bundle::new(self.dir.path())
    }

    fn try_hooks(&self, hooks: &Value) -> Result<Hooks, HooksRefused> {
        Hooks::of("c1", &self.bundle(), &spec(hooks), None)
    }

    fn hooks(&self, hooks: &Value) -> Hooks {
        self.try_hooks(hooks).unwrap()
    }

    /// The content of a file in the bundle, empty without the file.
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn is_due(&self) -> bool {
        self.dir.path().join("poststop.json").exists()
    }
}

#[tokio::test]
async fn a_hook_gets_state_arguments_environment_and_directory() {
    let bench = Bench::new();
    let hooks = bench.hooks(&json!({"createRuntime": [{
        "path": "/bin/sh",
        "args": ["its name", "-c", "/bin/cat >state; echo $0 $1 $OWN $HOME >seen", "zero", "one"],
        "env": ["OWN=variable"],
    }]}));
    hooks.creating(77).await.unwrap();
    assert_eq!(bench.file("seen"), "zero one variable\n");
    let state: Value = serde_json::from_str(&bench.file("state")).unwrap();
    let expected = json!({
        "ociVersion": "1.1.0",
        "id": "c1",
        "status": "creating",
        "pid": 77,
        "bundle": bench.dir.path(),
        "annotations": {"a.key": "a value"},
    });
    assert_eq!(state, expected);
}

#[tokio::test]
async fn the_phases_follow_each_other_and_tell_the_status() {
    let bench = Bench::new();
    let note = |name: &str| shell(&format!("echo {name} $(cat) >>order"));
    let hooks = bench.hooks(&json!({
        "poststop": [note("stop1"), note("stop2")],
        "poststart": [note("start")],
        "createRuntime": [note("create1"), note("create2")],
        "prestart": [note("pre")],
    }));
    hooks.creating(77).await.unwrap();
    hooks.started(77).await;
    hooks.stopped().await;
    hooks.stopped().await;
    let order = bench.file("order");
    let lines: Vec<_> = order
        .lines()
        .map(|line| {
            let (name, state) = line.split_once(' ').unwrap();
            let state: Value = serde_json::from_str(state).unwrap();
            let status = state["status"].as_str().unwrap().to_owned();
            (name, status, state["pid"].as_i64())
        })
        .collect();
    let expected = [
        ("pre", "creating", Some(77)),
        ("create1", "creating", Some(77)),
        ("create2", "creating", Some(77)),
        ("start", "running", Some(77)),
        ("stop1", "stopped", None),
        ("stop2", "stopped", None),
    ]
    .map(|(name, status, pid)| (name, status.to_owned(), pid));
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_failed_hook_is_named_with_its_last_words_and_is_the_last() {
    let bench = Bench::new();
    let hooks = bench.hooks(&json!({"createRuntime": [
        shell("yes nonsense | head -n 10000; printf 'no\\n\\033[31mnetwork\\n' >&2; exit 3"),
        shell("touch second"),
    ]}));
    let message = hooks.creating(77).await.unwrap_err().to_string();
    for words in [
        "createRuntime hook /bin/sh of config.json failed with exit status: 3: ",
        "nonsense no [31mnetwork",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert!(message.len() < 3000, "{} bytes", message.len());
    assert!(!bench.dir.path().join("second").exists());

    let hooks = bench.hooks(&json!({"prestart": [{"path": "/no/such/hook"}]}));
    let error = hooks.creating(77).await.unwrap_err();
    assert!(matches!(error, HookError::NotRun { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("prestart hook /no/such/hook") && message.contains("No such file"),
        "{message}"
    );
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_killed_with_its_children() {
    let bench = Bench::new();
    let fifo = bench.dir.path().join("held");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let reader = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).unwrap();
    let mut hook = shell("exec 3>held; sleep 1000 & sleep 1000");
    hook["timeout"] = json!(1);
    let hooks = bench.hooks(&json!({ "createRuntime": [hook] }));
    let message = hooks.creating(77).await.unwrap_err().to_string();
    assert!(
        message.contains("createRuntime hook /bin/sh") && message.contains("within 1 s"),
        "{message}"
    );
    // The end of the data: nobody holds the writing end any more, or ever will.
    let mut polled = [rustix::event::PollFd::new(
        &reader,
        rustix::event::PollFlags::IN,
    )];
    let soon = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    // Nothing to wait for if the hook was killed before it opened the fifo.
    let _ = rustix::event::poll(&mut polled, Some(&soon));
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
}

#[tokio::test]
async fn what_a_hook_leaves_running_does_not_delay_it() {
    let bench = Bench::new();
    // It holds the hook's output, and does not read the state.
    let hooks = bench.hooks(&json!({"createRuntime": [shell("sleep 1000 & echo $! >left")]}));
    hooks.creating(77).await.unwrap();
    let left = bench.file("left").trim().parse().unwrap();
    let left = rustix::process::Pid::from_raw(left).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).expect("it still runs");
}

#[tokio::test]
async fn poststop_hooks_are_due_from_the_first_hook_until_they_were_run() {
    let bench = Bench::new();
    let hooks = bench.hooks(&json!({
        "createRuntime": [shell("test -e poststop.json && exit 1")],
        "poststop": [shell("echo once >>stopped; exit 1"), shell("echo twice >>stopped")],
    }));
    hooks.stopped().await;
    assert_eq!(bench.file("stopped"), "", "nothing was begun");
    hooks.creating(77).await.unwrap_err();
    assert!(bench.is_due());
    hooks.stopped().await;
    assert_eq!(bench.file("stopped"), "once\ntwice\n");
    assert!(!bench.is_due());
}

#[tokio::test]
async fn what_a_dead_shim_left_is_run_once_and_not_for_ever() {
    let bench = Bench::new();
    let hooks = bench.hooks(&json!({"poststop": [
        shell("exec sleep 1000"),
        shell("exec sleep 1000"),
    ]}));
    hooks.creating(77).await.unwrap();
    drop(hooks);
    // No time is left for either; a quick hook might still have ended before it was cut off.
    let complaints = run_due(&bench.bundle(), Instant::now()).await;
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(
        complaints[0].contains("poststop hook /bin/sh"),
        "{complaints:?}"
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    assert!(run_due(&bench.bundle(), deadline).await.is_empty());

    let hooks = bench.hooks(&json!({"poststop": [shell("cat >stopped")]}));
    hooks.creating(77).await.unwrap();
    drop(hooks);
    assert!(run_due(&bench.bundle(), deadline).await.is_empty());
    let state: Value = serde_json::from_str(&bench.file("stopped")).unwrap();
    assert_eq!(state["status"], "stopped");
    assert!(!bench.is_due());

    fs::write(bench.dir.path().join("poststop.json"), "{").unwrap();
    let complaints = run_due(&bench.bundle(), deadline).await;
    assert!(complaints[0].contains("poststop.json"), "{complaints:?}");
}

#[test]
fn hooks_that_cannot_be_run_are_refused() {
    let bench = Bench::new();
    for (hooks, words) in [
        (
            json!({"createContainer": [{"path": "/usr/bin/hook"}]}),
            &["createContainer", "createRuntime", "startContainer"][..],
        ),
        (
            json!({"poststop": [{"path": "/bin/true"}, {"path": "bin/hook"}]}),
            &["`hooks.poststop[1].path`", "\"bin/hook\"", "absolute"],
        ),
        (
            json!({"prestart": [{"path": "/bin/true", "timeout": 0}]}),
            &["`hooks.prestart[0].timeout`", "0", "above 0"],
        ),
    ] {
        let message = bench.try_hooks(&hooks).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word} in {message}");
        }
    }
    bench.hooks(&json!({"createContainer": [], "startContainer": [{"path": "/bin/hook"}]}));
}

#[test]
fn hooks_run_in_the_mount_namespace_that_the_shim_has_left() {
    let test = || {
        let host = HostMounts::current().unwrap();
        let name = || fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let before = name();
        if let Err(error) = caisson_sandbox::enter_mount_namespace() {
            eprintln!("skipped: cannot make a mount namespace ({error}), needs root");
            return;
        }
        assert_ne!(name(), before);
        let bench = Bench::new();
        let listed = json!({"createRuntime": [shell("pwd >cwd; readlink /proc/self/ns/mnt >mnt")]});
        let hooks = Hooks::of("c1", &bench.bundle(), &spec(&listed), Some(host)).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(hooks.creating(77))
            .unwrap();
        assert_eq!(Path::new(bench.file("mnt").trim()), before);
        assert_eq!(Path::new(bench.file("cwd").trim()), bench.dir.path());
    };
    // What the thread unshares is its own.
    std::thread::spawn(test).join().unwrap();
}
