//! Hooks in the life of a container: when they run, what their failure does, and whom they hold up.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caisson_sandbox::ErrorKind;
use serde_json::{Value, json};
use tokio::time::timeout;
use ttrpc::Code;

use crate::error::TaskError;
use crate::fake_vm::{FakeVm, PID};
use crate::options::Options;
use crate::pod::{CreateRequest, Pod, PodOptions};
use crate::process::{ProcessKey, State};
use crate::publisher::Publisher;
use crate::stdio::StdioPaths;

/// Nothing here waits for anything but this machine's own processes.
const SOON: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    vm: FakeVm,
    pod: Arc<Pod>,
}

fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

/// A hook that writes its name and the process id it is told into `order`.
fn note(name: &str) -> Value {
    shell(&format!(
        r#"echo {name} $(sed -n 's/.*"pid":\([0-9]*\).*/\1/p') >>order"#
    ))
}

fn init(id: &str) -> ProcessKey {
    ProcessKey::new(id, "")
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = FakeVm::new();
        let options = PodOptions {
            id: "c1".into(),
            namespace: "default".into(),
            state_dir: dir.path().join("unused"),
        };
        let pod = Pod::new(options, Publisher::start("", ""), vm.launcher());
        Self { dir, vm, pod }
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    /// Creates a container of the pod whose configuration is `patch` and little else.
    fn create(
        &self,
        id: &str,
        patch: Value,
    ) -> impl Future<Output = Result<u32, TaskError>> + Send + 'static {
        let mut config = json!({
            "ociVersion": "1.1.0",
            "annotations": {"io.containerd.runc.v2.group": "c1"},
        });
        for (key, value) in patch.as_object().unwrap() {
            config[key] = value.clone();
        }
        let bundle = self.bundle(id);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let request = CreateRequest {
            id: id.into(),
            bundle,
            rootfs: Vec::new(),
            stdio: StdioPaths::default(),
            options: Options::default(),
        };
        Arc::clone(&self.pod).create(request)
    }

    async fn start(&self, id: &str) -> Result<u32, TaskError> {
        Arc::clone(&self.pod).start(init(id)).await
    }

    /// The lines of a file in a bundle.
    fn lines(&self, id: &str, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.bundle(id).join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn hooks_run_at_the_turning_points() {
    let bench = Bench::new();
    let hooks = json!({
        "prestart": [note("pre")],
        "createRuntime": [note("create")],
        "poststart": [note("start")],
        "poststop": [note("stop")],
    });
    bench.create("c1", json!({ "hooks": hooks })).await.unwrap();
    let (pre, create) = (format!("pre {PID}"), format!("create {PID}"));
    assert_eq!(bench.lines("c1", "order"), [&*pre, &*create]);
    bench.start("c1").await.unwrap();
    let start = format!("start {PID}");
    assert_eq!(bench.lines("c1", "order"), [&*pre, &*create, &*start]);
    bench.vm.exit("c1", "", 0, false);
    bench.pod.wait(&init("c1")).await.unwrap();
    assert_eq!(
        bench.lines("c1", "order").len(),
        3,
        "not before it is deleted"
    );
    Arc::clone(&bench.pod).delete(init("c1")).await.unwrap();
    assert_eq!(
        bench.lines("c1", "order"),
        [&*pre, &*create, &*start, "stop"]
    );
    assert!(!bench.bundle("c1").join("poststop.json").exists());
}

#[tokio::test]
async fn a_failed_hook_fails_create_and_everything_is_undone() {
    let bench = Bench::new();
    let hooks = json!({
        "createRuntime": [shell("echo no network; exit 1")],
        "poststop": [note("stop")],
    });
    let error = bench
        .create("c1", json!({ "hooks": hooks }))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    let message = error.to_string();
    assert!(
        message.starts_with("OCI runtime create failed: ") && message.ends_with(": no network"),
        "{message}"
    );
    assert_eq!(bench.lines("c1", "order"), ["stop"]);
    assert_eq!(
        bench.vm.calls(),
        ["stop /"],
        "the guest has not heard of it"
    );
    let unknown = bench.pod.state(&init("c1")).unwrap_err();
    assert_eq!(unknown.code(), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_container_that_the_guest_refuses_gets_its_poststop_hooks() {
    let bench = Bench::new();
    let hooks = json!({"createRuntime": [note("create")], "poststop": [note("stop")]});
    bench
        .vm
        .refuse_create(ErrorKind::NotFound, "executable file not found");
    bench
        .create("c1", json!({ "hooks": hooks }))
        .await
        .unwrap_err();
    assert_eq!(
        bench.lines("c1", "order"),
        [format!("create {PID}"), "stop".into()]
    );
}

#[tokio::test]
async fn hooks_after_the_fact_change_nothing() {
    let bench = Bench::new();
    let fails = json!([shell("exit 1"), note("next")]);
    let hooks = json!({"poststart": fails, "poststop": fails});
    bench.create("c1", json!({ "hooks": hooks })).await.unwrap();
    bench.start("c1").await.unwrap();
    assert_eq!(bench.pod.state(&init("c1")).unwrap().state, State::Running);
    bench.vm.exit("c1", "", 5, false);
    bench.pod.wait(&init("c1")).await.unwrap();
    let (_, exit) = Arc::clone(&bench.pod).delete(init("c1")).await.unwrap();
    assert_eq!(exit.status, 5);
    assert_eq!(bench.lines("c1", "order").len(), 2, "the next one is run");
}

#[tokio::test]
async fn a_hook_that_hangs_holds_up_nobody_else() {
    let bench = Bench::new();
    bench.create("c1", json!({})).await.unwrap();
    bench.start("c1").await.unwrap();
    let fifo = |id: &str| {
        let path = bench.bundle(id).join("fifo");
        fs::create_dir_all(bench.bundle(id)).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        path
    };
    let release = |path: PathBuf| tokio::task::spawn_blocking(move || fs::write(path, "go"));
    let waits = shell("exec cat fifo");
    let (creating, starting) = (fifo("c2"), fifo("c3"));

    let created = tokio::spawn(bench.create("c2", json!({"hooks": {"createRuntime": [waits]}})));
    bench
        .create("c3", json!({"hooks": {"poststart": [waits]}}))
        .await
        .unwrap();
    let started = tokio::spawn(Arc::clone(&bench.pod).start(init("c3")));
    let others = async {
        while bench.pod.state(&init("c3")).unwrap().state != State::Running {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.pod.state(&init("c1")).unwrap().state, State::Running);
        // The container whose hook hangs can end meanwhile, too.
        for id in ["c1", "c3"] {
            bench.pod.kill(&init(id), 9, false).await.unwrap();
            assert_eq!(bench.pod.wait(&init(id)).await.unwrap().status, 137);
        }
        Arc::clone(&bench.pod).delete(init("c1")).await.unwrap();
    };
    timeout(SOON, others).await.expect("nothing is held up");
    assert!(!created.is_finished() && !started.is_finished());
    for path in [creating, starting] {
        release(path).await.unwrap().unwrap();
    }
    timeout(SOON, created).await.unwrap().unwrap().unwrap();
    timeout(SOON, started).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_the_machine_ends_the_wait_for_a_hook() {
    let bench = Bench::new();
    let hooks = json!({
        "createRuntime": [shell("exec sleep 1000")],
        "poststop": [note("stop")],
    });
    let created = tokio::spawn(bench.create("c1", json!({ "hooks": hooks })));
    while !bench.bundle("c1").join("poststop.json").exists() {
        tokio::task::yield_now().await;
    }
    bench.vm.die("it was killed");
    let error = timeout(SOON, created).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::UNAVAILABLE);
    assert!(error.to_string().contains("it was killed"), "{error}");
    assert_eq!(bench.lines("c1", "order"), ["stop"]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_there_is_a_machine() {
    let bench = Bench::new();
    let no_network = json!({"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}});
    for (patch, words) in [
        (no_network, "host's network"),
        (
            json!({"hooks": {"createContainer": [{"path": "/bin/hook"}]}}),
            "createContainer",
        ),
    ] {
        let error = bench.create("c1", patch).await.unwrap_err();
        assert_eq!(error.code(), Code::INVALID_ARGUMENT);
        assert!(error.to_string().contains(words), "{error}");
        assert!(bench.vm.launched().is_none());
    }
}

#[tokio::test]
async fn the_network_namespace_of_the_configuration_becomes_the_pods() {
    for (namespace, expected) in [
        (
            json!({"type": "network", "path": "/run/netns/cni-1"}),
            Some("/run/netns/cni-1"),
        ),
        (json!({"type": "network", "path": ""}), None),
        (json!({"type": "network"}), None),
        // No more than this is in the configurations of containerd's tests of shims.
        (json!({"type": "mount"}), None),
    ] {
        let bench = Bench::new();
        let linux = json!({"namespaces": [{"type": "mount"}, namespace]});
        bench.create("c1", json!({ "linux": linux })).await.unwrap();
        let launched = bench.vm.launched().unwrap();
        assert_eq!(launched.netns, expected.map(PathBuf::from));
    }
}

#[tokio::test]
async fn the_machine_gets_the_highest_oom_score_of_its_containers() {
    let bench = Bench::new();
    for (id, score) in [
        ("c1", Some(-998)),
        ("c2", Some(1000)),
        ("c3", Some(2)),
        ("c4", None),
    ] {
        let mut process = json!({"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}});
        if let Some(score) = score {
            process["oomScoreAdj"] = json!(score);
        }
        bench
            .create(id, json!({ "process": process }))
            .await
            .unwrap();
    }
    let calls = bench.vm.calls();
    let scores: Vec<_> = calls
        .iter()
        .filter(|call| call.starts_with("oom"))
        .collect();
    assert_eq!(scores, ["oom-score -998 /", "oom-score 1000 /"]);
}
