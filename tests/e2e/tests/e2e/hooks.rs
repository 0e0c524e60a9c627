//! OCI hooks, and the process on the host that they are told of.

use std::fs;
use std::path::Path;

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Ctr, NetworkNamespace, RUNTIME, parent_of, signal, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory of the host with an image in it and what hooks write.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let _ = Ctr::new(&["image", "mount", "--rw", BUSYBOX, root.to_str().unwrap()])
            .finish()
            .ok();
        Self { dir }
    }

    /// A hook that writes into the directory.
    pub(crate) fn hook(&self, script: &str) -> Value {
        json!({
            "path": "/bin/sh",
            "args": ["sh", "-c", format!("cd {}; {script}", self.dir.path().display())],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        })
    }

    /// Writes a configuration with `hooks` whose container sleeps.
    pub(crate) fn config(&self, hooks: &Value, network: &Value) -> String {
        let config = json!({
            "ociVersion": "1.1.0",
            "annotations": {"a.key": "a value"},
            "root": {"path": self.dir.path().join("root")},
            "process": {
                "cwd": "/",
                "args": ["sleep", "1000"],
                "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
                "oomScoreAdj": 321,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "hooks": hooks,
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, network,
            ]},
        });
        let path = self.dir.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.trim().to_owned()
    }

    fn state(&self, name: &str) -> Value {
        serde_json::from_str(&self.file(name)).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let root = self.dir.path().join("root");
        let _ = Ctr::new(&["image", "unmount", "--rm", root.to_str().unwrap()]).finish();
    }
}

fn namespace_of(process: &str, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn hooks_run_on_the_host_with_the_pods_process_in_the_pods_network() {
    let _machine = CleanMachine::watch();
    let network = NetworkNamespace::new("e2e-hooks");
    let bench = Bench::new();
    let namespaces = "readlink /proc/self/ns/mnt /proc/self/ns/net >where";
    let hooks = json!({
        "createRuntime": [bench.hook(&format!("cat >creating; {namespaces}"))],
        "startContainer": [{
            "path": "/bin/sh",
            "args": ["sh", "-c", "uname -r >/hook"],
            "env": ["PATH=/bin"],
        }],
        "poststart": [bench.hook("cat >running"), bench.hook("exit 1")],
        "poststop": [bench.hook("cat >stopped"), bench.hook("exit 1")],
    });
    let config = bench.config(&hooks, &json!({"type": "network", "path": network.path()}));
    let container = Container::configured(&config, "hooks");
    let pid = container.host_pid();

    let state = bench.state("creating");
    assert_eq!(state["id"], "hooks");
    assert_eq!(state["status"], "creating");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["annotations"]["a.key"], "a value");
    let bundle = Path::new(state["bundle"].as_str().unwrap());
    assert!(bundle.join("config.json").exists(), "{state}");
    let own = ["mnt", "net"].map(|kind| namespace_of("self", kind));
    assert_eq!(bench.file("where"), own.join("\n"));
    assert_eq!(bench.state("running")["status"], "running");
    assert_eq!(bench.state("running")["pid"], pid);

    // The process is a host's process in the pod's network, and the VMM is not in there.
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(network.path()).unwrap());
    let of_pid = namespace_of(&pid.to_string(), "net");
    assert_eq!(of_pid, format!("net:[{inode}]"));
    let of_vmm = namespace_of(&container.vmm_pid().to_string(), "net");
    assert!(![&own[1], &of_pid].contains(&&of_vmm), "{of_vmm}");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", container.vmm_pid()));
    assert_eq!(score.unwrap().trim(), "321");

    // startContainer's ran inside.
    let kernel = container.exec(&["cat", "/hook"]).finish().ok().text();
    assert!(kernel.ends_with("-caisson"), "{kernel}");

    assert_eq!(bench.file("stopped"), "");
    let _ = container.task("kill", &["--signal", "9"]).ok();
    assert_eq!(container.exit_code_at_delete(), 137);
    let state = bench.state("stopped");
    assert_eq!(
        (&state["status"], state.get("pid")),
        (&json!("stopped"), None)
    );
    drop(container);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_hook_that_fails_or_hangs_fails_the_creation_and_is_named() {
    let _machine = CleanMachine::watch();
    let bench = Bench::new();
    let mut hangs = bench.hook("sleep 1000");
    hangs["timeout"] = json!(1);
    for (hook, words) in [
        (
            bench.hook("echo no network >&2; exit 3"),
            "exit status: 3: no network",
        ),
        (hangs, "within 1 s"),
    ] {
        let hooks = json!({
            "createRuntime": [hook],
            "poststop": [bench.hook("echo once >>stopped")],
        });
        let config = bench.config(&hooks, &json!({"type": "network"}));
        let message = Ctr::new(&["run", "--runtime", RUNTIME, "--config", &config, "failing"])
            .finish()
            .failure();
        let _ = Ctr::new(&["container", "rm", "failing"]).finish();
        for words in ["createRuntime hook /bin/sh", words] {
            assert!(message.contains(words), "{message}");
        }
    }
    assert_eq!(bench.file("stopped"), "once\nonce");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn hooks_that_a_killed_shim_owes_are_run_for_it() {
    let _machine = CleanMachine::watch();
    let bench = Bench::new();
    let hooks = json!({"poststop": [bench.hook("cat >stopped")]});
    let config = bench.config(&hooks, &json!({"type": "network"}));
    let container = Container::configured(&config, "owed");
    signal(parent_of(container.host_pid()), Signal::KILL);
    let deleted = container.task("delete", &["--force"]).failure();
    assert!(deleted.contains("not found"), "{deleted}");
    // containerd may have lost its patience with whoever cleans up.
    wait_until("the hook has run", || !bench.file("stopped").is_empty());
    assert_eq!(bench.state("stopped")["status"], "stopped");
    // With a task it cannot find, ctr leaves behind the fifos that it made itself.
    let _ = fs::remove_dir_all("/run/containerd/fifo");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_end_of_the_pods_process_is_the_end_of_its_containers() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "pid-killed", &["sleep", "1000"]);
    let pid = container.host_pid().to_string();
    assert_ne!(namespace_of(&pid, "net"), namespace_of("self", "net"));
    signal(container.host_pid(), Signal::KILL);
    let _ = container.exec(&["true"]).finish().failure();
    assert_eq!(container.exit_code_at_delete(), 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_hosts_network_is_refused() {
    let _machine = CleanMachine::watch();
    let message = Ctr::run_with(&["--net-host"], BUSYBOX, "host-network", &["true"])
        .finish()
        .failure();
    assert!(message.contains("host's network"), "{message}");
}
