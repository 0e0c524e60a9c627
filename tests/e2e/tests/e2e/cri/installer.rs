//! The installer of nodes, on one that has Caisson already: under another name and elsewhere.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use caisson_e2e::{CleanMachine, Containerd, Cri, Finished, PodConfig, PodSandbox, parent_of};

/// It lies in every installation, and every installation is what another one can be made of.
const INSTALLER: &str = "/usr/local/libexec/caisson/install.sh";
const PREFIX: &str = "/srv/caisson-e2e";
const HANDLER: &str = "caisson-e2e";
const CONFIG: &str = "/etc/caisson-e2e/config.toml";
/// How long containerd may take after its start until it answers a kubelet.
const PATIENCE: Duration = Duration::from_secs(60);
const CONTAINERD: &str = "/etc/containerd/config.toml";

#[track_caller]
fn installer(what: &str, options: &[&str]) -> Finished {
    let output = Command::new("sh")
        .args([INSTALLER, what, "--prefix", PREFIX, "--handler", HANDLER])
        .args(["--config", CONFIG])
        .args(options)
        .output();
    let output = output.unwrap();
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_node_gets_a_runtime_handler_and_loses_it_again() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let configuration = || fs::read_to_string(CONTAINERD).unwrap();
    let before = configuration();

    // A look first, which changes nothing.
    let said = installer("install", &["--dry-run"]).ok().text();
    assert!(
        said.contains("dry run: file: /srv/caisson-e2e/bin"),
        "{said}"
    );
    assert!(said.contains("runtimes.\"caisson-e2e\""), "{said}");
    assert!(!Path::new(PREFIX).exists() && configuration() == before);

    let _ = installer("install", &[]).ok();
    let after = configuration();
    assert!(after.starts_with(&before), "{after}");
    // Once more: all is there.
    let said = installer("install", &[]).ok().text();
    assert!(
        said.lines().all(|line| line.starts_with("is there: ")),
        "{said}"
    );
    assert_eq!(configuration(), after);

    {
        restart_containerd(&cri);
        let pod = PodSandbox::run(&cri, &PodConfig::new("pod").with_handler(HANDLER));
        let one = pod.start("one", &["sleep", "1000"]);
        assert_eq!(one.shell("echo here"), "here");
        let shim = parent_of(pod.host_pid());
        let program = fs::read_link(format!("/proc/{shim}/exe")).unwrap();
        assert!(program.starts_with(PREFIX), "{}", program.display());
        let refused = installer("remove", &[]).failure();
        assert!(refused.contains("pods run with it"), "{refused}");
    }

    // What came to containerd's configuration since stays.
    fs::write(
        CONTAINERD,
        format!("{}\n# a line of somebody's\n", configuration()),
    )
    .unwrap();
    let _ = installer("remove", &[]).ok();
    assert_eq!(
        configuration(),
        format!("{before}\n# a line of somebody's\n")
    );
    fs::write(CONTAINERD, &before).unwrap();
    assert!(!Path::new(PREFIX).exists() && !Path::new(CONFIG).exists());
    // And where nothing came, it is as it was.
    let _ = installer("install", &[]).ok();
    assert_eq!(configuration(), after);
    let _ = installer("remove", &[]).ok();
    assert_eq!(configuration(), before);
    assert!(!Path::new(PREFIX).exists() && !Path::new(CONFIG).exists());
    restart_containerd(&cri);
}

/// As systemctl does it, until a kubelet can go on.
#[track_caller]
fn restart_containerd(cri: &Cri) {
    let mut containerd = Containerd::running();
    containerd.stop();
    containerd.start();
    let deadline = Instant::now() + PATIENCE;
    while cri.call(&["info"]).code != 0 {
        assert!(Instant::now() < deadline, "the CRI plug-in does not answer");
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_installation_that_cannot_be_is_one_sentence_and_changes_nothing() {
    let before = fs::read_to_string(CONTAINERD).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    let broken = "version = 2\nplugins = much\n";
    let old = "[plugins.cri]\n";
    let off = "version = 2\ndisabled_plugins = [\"cri\"]\n";
    let taken =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.caisson-e2e]\n";
    for (text, reason) in [
        (broken, "containerd could not read"),
        (old, "containerd config migrate"),
        (off, "disabled_plugins"),
        (taken, "this script has not made"),
    ] {
        fs::write(&file, text).unwrap();
        let options = ["--containerd-config", &*file.to_string_lossy()];
        let message = installer("install", &options).failure();
        assert!(message.contains(reason), "{message}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert!(!Path::new(PREFIX).exists(), "{reason}");
    }
    let without_kvm = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!(
            "mount -n -t tmpfs tmpfs /dev && exec sh {INSTALLER} install --prefix {PREFIX}"
        ))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&without_kvm.stderr);
    assert!(!without_kvm.status.success());
    for reason in ["no /dev/kvm", "nothing was installed"] {
        assert!(message.contains(reason), "{message}");
    }
    assert!(!Path::new(PREFIX).exists());
    assert_eq!(fs::read_to_string(CONTAINERD).unwrap(), before);
}
