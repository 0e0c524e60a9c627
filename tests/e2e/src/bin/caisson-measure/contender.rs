//! Who is compared.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use caisson_e2e::{BUSYBOX, Containerd, Ctr, Finished, RUNTIME};

const RUNC: &str = "io.containerd.runc.v2";
const RUNC_SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// A runtime and how it is asked for.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Options of `ctr run`.
    options: &'static [&'static str],
    /// The runtime handler of its pods, if it can have any here.
    pub(crate) handler: Option<&'static str>,
    /// Whether a block device of the host can be a container's.
    pub(crate) has_devices: bool,
    /// Its files on a node, and folders with nothing else.
    pub(crate) files: &'static [&'static str],
}

const ALL: [Contender; 4] = [
    Contender {
        name: "runc",
        options: &["--runtime", RUNC],
        handler: Some("runc"),
        has_devices: true,
        files: &["/usr/bin/runc", RUNC_SHIM],
    },
    Contender {
        name: "crun",
        options: &["--runtime", RUNC, "--runc-binary", "crun"],
        handler: Some("crun"),
        has_devices: true,
        files: &["/usr/bin/crun", RUNC_SHIM],
    },
    Contender {
        name: "gVisor",
        options: &["--runtime", RUNC, "--runc-binary", GVISOR],
        handler: None,
        has_devices: false,
        files: &[RUNSC, RUNC_SHIM],
    },
    Contender {
        name: CAISSON,
        options: &["--runtime", RUNTIME],
        handler: Some("caisson"),
        has_devices: true,
        files: &[
            "/usr/local/bin/containerd-shim-caisson-v2",
            "/usr/local/libexec/caisson",
            "/usr/local/share/caisson",
        ],
    },
];

/// The one that the others are there for.
pub(crate) const CAISSON: &str = "Caisson";

/// How many seconds the first container of a contender may take. In emulation runc needs five.
const PATIENCE: &str = "120";

/// gVisor's program, which lies beside this one where it can be had, and what containerd's shim of
/// runc runs for it.
const RUNSC: &str = "/usr/bin/runsc";
const GVISOR: &str = "/usr/bin/runsc-measured";
/// systrap is gVisor's own default, and does without the processor's virtualisation. The network of a
/// namespace it refuses here ("cannot run with network enabled in root network namespace"), whether
/// that is the host's or not, but for the kernel's own in it.
const GVISOR_SCRIPT: &str = r#"#!/bin/sh
network=none
grep -q '"type":"network","path"' config.json 2>/dev/null && network=host
exec /usr/bin/runsc --platform=systrap --network=$network "$@"
"#;

const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const HANDLERS: &str = r#"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
      BinaryName = "/usr/bin/crun"
"#;

impl Contender {
    /// Those with `name` in their names that run a container here. Who does not is named, with the
    /// reason.
    pub(crate) fn present(name: &str) -> Vec<&'static Self> {
        install();
        let named = ALL.iter().filter(|one| one.name.contains(name));
        named
            .filter(|one| {
                eprintln!("trying {}", one.name);
                let tried = one.tried();
                if let Err(reason) = &tried {
                    println!("without {}: {reason}", one.name);
                }
                tried.is_ok()
            })
            .collect()
    }

    /// Whether it runs a container to its end within [`PATIENCE`].
    fn tried(&self) -> Result<(), String> {
        // What one of them leaves must not be in the way of the next.
        let id = format!("tried-{}", self.name);
        let words = [
            &["ctr", "run", "--rm"],
            self.options,
            &[BUSYBOX, id.as_str(), "true"],
        ];
        let output = Command::new("timeout")
            .args(["--kill-after=5", PATIENCE])
            .args(words.concat())
            .output()
            .expect("coreutils are installed in the testbed");
        match output.status.code() {
            Some(0) => Ok(()),
            Some(124 | 137) => Err(format!("a container was not done after {PATIENCE} seconds")),
            _ => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// `ctr run --rm … true`.
    pub(crate) fn run(&self, id: &str) -> Finished {
        let words = [&["run", "--rm"], self.options, &[BUSYBOX, id, "true"]];
        Ctr::new(&words.concat()).finish()
    }

    /// A container that sleeps, with the contender's name.
    pub(crate) fn start(&self) {
        let _ = self.start_as(self.name, &[]).ok();
    }

    /// A container that sleeps, with options of `ctr run`.
    pub(crate) fn start_as(&self, id: &str, options: &[&str]) -> Finished {
        let sleep = [BUSYBOX, id, "sleep", "100000"];
        let words = [&["run", "--detach"], self.options, options, &sleep];
        Ctr::new(&words.concat()).finish()
    }

    /// `ctr task exec … true` in the container that sleeps.
    pub(crate) fn exec(&self, exec: &str) {
        let words = ["task", "exec", "--exec-id", exec, self.name, "true"];
        let _ = Ctr::new(&words).finish().ok();
    }

    /// Removes the container that sleeps.
    pub(crate) fn remove(&self) {
        let _ = Ctr::new(&["task", "rm", "--force", self.name]).finish();
        let _ = Ctr::new(&["container", "rm", self.name]).finish().ok();
    }
}

/// Puts gVisor where containerd looks for it, and tells containerd of the handlers for pods.
fn install() {
    let here = std::env::current_exe().expect("a program knows its own file");
    let program = here.with_file_name("runsc");
    if program.exists() {
        fs::copy(program, RUNSC).expect("there is room for gVisor");
        fs::write(GVISOR, GVISOR_SCRIPT).expect("there is room for a file");
        let executable = fs::set_permissions(GVISOR, Permissions::from_mode(0o755));
        executable.expect("it is ours");
    }
    let config = fs::read_to_string(CONTAINERD_CONFIG).expect("containerd has a configuration");
    if config.contains(HANDLERS) {
        return;
    }
    let told = fs::write(CONTAINERD_CONFIG, config + HANDLERS);
    told.expect("there is room for a few lines");
    let mut containerd = Containerd::running();
    containerd.stop();
    containerd.start();
}
