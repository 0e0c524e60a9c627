//! VMMs that Debian does not have: Firecracker and Cloud Hypervisor, where somebody put them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use caisson_machine_tests::{KERNEL, PARAMETERS};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::contender::{Contender, Guest, Machine};
use crate::qemu::run;

/// Where `cargo measure --vmm` puts what it finds.
const STAGED: &str = "/share/peers";
/// From where they are started: as fast a disk as that of the others.
const DIRECTORY: &str = "/var/tmp";

const FIRECRACKER: &str = "firecracker";
const CLOUD_HYPERVISOR: &str = "cloud-hypervisor";

/// Our own VMM of another version, if there is one to compare with.
pub(crate) fn other_caisson() -> Option<PathBuf> {
    let staged = Path::new(STAGED).join("caisson-vmm");
    staged.exists().then(|| {
        let place = Path::new(DIRECTORY).join("caisson-vmm");
        run(Command::new("cp").arg(&staged).arg(&place));
        place
    })
}

/// Those that are there.
pub(crate) struct Peers {
    firecracker: Option<PathBuf>,
    cloud_hypervisor: Option<PathBuf>,
}

impl Peers {
    /// Looks for them, and says which are missing.
    pub(crate) fn staged() -> Self {
        let find = |name: &str| {
            let staged = Path::new(STAGED).join(name);
            if !staged.exists() {
                println!(
                    "Without {name}: it is neither in CAISSON_PEERS nor in the cache's peers."
                );
                return None;
            }
            let place = Path::new(DIRECTORY).join(name);
            run(Command::new("cp").arg(&staged).arg(&place));
            Some(place)
        };
        Self {
            firecracker: find(FIRECRACKER),
            cloud_hypervisor: find(CLOUD_HYPERVISOR),
        }
    }

    /// How they are started, with nothing on a bus, since what they put there differs.
    pub(crate) fn contenders<'a>(
        &'a self,
        guest: &'a Guest,
        memory_mib: u32,
    ) -> Vec<Contender<'a>> {
        let firecracker = self.firecracker.as_ref().map(|program| Contender {
            name: "Firecracker, no device".to_owned(),
            start: Box::new(move || firecracker(program, guest, memory_mib)),
            hello: None,
        });
        let cloud_hypervisor = self.cloud_hypervisor.as_ref().map(|program| Contender {
            name: "Cloud Hypervisor, no device".to_owned(),
            start: Box::new(move || cloud_hypervisor(program, guest, memory_mib)),
            hello: None,
        });
        firecracker.into_iter().chain(cloud_hypervisor).collect()
    }
}

fn firecracker(program: &Path, guest: &Guest, memory_mib: u32) -> Box<dyn Machine> {
    let description = json!({
        "boot-source": {
            "kernel_image_path": KERNEL,
            "initrd_path": guest.path(),
            "boot_args": parameters(),
        },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": memory_mib },
    });
    let mut file = NamedTempFile::new().expect("there is room in /tmp");
    let written = file.write_all(description.to_string().as_bytes());
    written.expect("there is room in /tmp");
    let mut command = Command::new(program);
    command
        .args(["--no-api", "--no-seccomp", "--config-file"])
        .arg(file.path());
    Box::new(Running::start(command, Some(file)))
}

fn cloud_hypervisor(program: &Path, guest: &Guest, memory_mib: u32) -> Box<dyn Machine> {
    let mut command = Command::new(program);
    command
        .args(["--kernel", KERNEL, "--initramfs"])
        .arg(guest.path());
    command.args(["--cmdline", &parameters()]);
    command.args([
        "--cpus",
        "boot=1",
        "--memory",
        &format!("size={memory_mib}M"),
    ]);
    command.args(["--serial", "off", "--console", "off"]);
    Box::new(Running::start(command, None))
}

fn parameters() -> String {
    format!("{PARAMETERS} maxcpus=1")
}

struct Running {
    child: Child,
    /// What it may still be reading.
    _description: Option<NamedTempFile>,
}

impl Running {
    fn start(mut command: Command, description: Option<NamedTempFile>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn();
        Self {
            child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
            _description: description,
        }
    }
}

impl Machine for Running {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn accept(&self, port: u32) -> File {
        panic!("this guest has no vsock to reach port {port}")
    }

    fn connect(&self, port: u32) -> File {
        panic!("this guest has no vsock with port {port}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
