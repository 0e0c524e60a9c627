//! A place to start sandboxes in: a mount namespace, a directory, and programs that play their
//! parts.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use caisson_sandbox::{
    Config, CreateContainer, PodPlace, RootMount, SandboxOptions, VmSize, enter_mount_namespace,
};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::json;
use tempfile::TempDir;

/// The program that plays VMM and file server, by the name it is started with.
const PLAYER: &str = env!("CARGO_BIN_EXE_fake-vmm");

/// The size of the machine at first.
pub(crate) const SIZE: VmSize = VmSize {
    vcpus: 1,
    memory_mib: 128,
};

pub(crate) struct Pod {
    directory: TempDir,
}

/// Runs a test with a pod of its own in a mount namespace of its own. Without the privilege for
/// that the test is skipped and says so.
pub(crate) fn in_pod(test: impl AsyncFnOnce(&Pod) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = enter_mount_namespace() {
            eprintln!("skipped: cannot make a mount namespace ({error}), needs root");
            return;
        }
        let pod = Pod::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(&pod));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Pod {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["fake-vmm", "fake-fs", "fake-fs-dies", "fake-pod"] {
            symlink(PLAYER, directory.path().join(name)).unwrap();
        }
        for name in ["vmlinux", "initrd"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        fs::create_dir_all(directory.path().join("bundle/rootfs")).unwrap();
        fs::create_dir(directory.path().join("image")).unwrap();
        fs::write(directory.path().join("image/file"), "from the image").unwrap();
        provide_kvm();
        Self { directory }
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A configuration with a VMM that makes one mistake; none with an empty name.
    pub(crate) fn config(&self, fault: &str) -> Config {
        Config {
            kernel: self.program("vmlinux"),
            initrd: self.program("initrd"),
            vmm: self.program("fake-vmm"),
            file_server: self.program("fake-fs"),
            pod_process: self.program("fake-pod"),
            kernel_parameters: format!("fake={fault}"),
            ..Config::default()
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("run/default/pod")
    }

    pub(crate) fn options(&self) -> SandboxOptions {
        SandboxOptions {
            id: "pod".into(),
            namespace: "default".into(),
            state_dir: self.state_dir(),
            size: SIZE,
            most: VmSize {
                vcpus: 4,
                memory_mib: 256,
            },
            netns: None,
        }
    }

    /// A container with standard input and output that runs `program`.
    pub(crate) fn container(&self, id: &str, program: &str) -> CreateContainer {
        CreateContainer {
            id: id.into(),
            bundle: self.directory.path().join("bundle"),
            rootfs: vec![RootMount {
                kind: "bind".into(),
                source: self.program("image").to_str().unwrap().into(),
                target: String::new(),
                options: vec!["rbind".into(), "rw".into()],
            }],
            spec: serde_json::from_value(json!({
                "ociVersion": "1.1.0",
                "root": {"path": "rootfs"},
                "process": {"cwd": "/", "args": [program], "user": {"uid": 0, "gid": 0}},
            }))
            .unwrap(),
            place: PodPlace::Outside,
            terminal: false,
            stdin: true,
            stdout: true,
            stderr: false,
        }
    }

    /// Replaces the kernel by one that carries a configuration.
    pub(crate) fn write_kernel_with_config(&self, config: &str) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(config.as_bytes()).unwrap();
        let kernel = [
            b"some code IKCFG_ST",
            &gzip.finish().unwrap()[..],
            b"IKCFG_ED",
        ]
        .concat();
        fs::write(self.program("vmlinux"), kernel).unwrap();
    }

    /// The processes that run a program of this pod.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let own = self.directory.path().to_str().unwrap();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|cmdline| cmdline.starts_with(own.as_bytes()))
            })
            .collect()
    }

    /// The process that the sandbox has recorded under this name.
    pub(crate) fn process(&self, name: &str) -> u32 {
        let record = fs::read_to_string(self.state_dir().join("processes")).unwrap();
        let line = record.lines().find(|line| line.starts_with(name));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Waits until all processes of this pod have ended, and are known to have.
    pub(crate) async fn no_processes(&self) {
        for pid in self.processes() {
            watch(pid).await;
        }
        while self.directory.path().join("run/.ids").exists() {
            tokio::task::yield_now().await;
        }
    }

    /// No process, no mount and no file is left of any sandbox.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), Vec::<u32>::new());
        assert!(!self.directory.path().join("run").exists());
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()));
        let image = fs::read_to_string(self.program("image/file")).unwrap();
        assert_eq!(image, "from the image");
    }
}

/// Where there is no /dev/kvm, a file stands in for it: the fake VMM does not use it.
fn provide_kvm() {
    use rustix::fs::CWD;
    use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
    if Path::new("/dev/kvm").exists() {
        return;
    }
    let null = rustix::mount::open_tree(
        CWD,
        "/dev/null",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .unwrap();
    rustix::mount::mount("none", "/dev", "tmpfs", MountFlags::empty(), None).unwrap();
    for name in ["/dev/null", "/dev/kvm"] {
        fs::write(name, "").unwrap();
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&null, "", CWD, "/dev/null", flags).unwrap();
}

/// Kills a process.
pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// Returns when a process that runs now has ended.
pub(crate) fn watch(pid: u32) -> impl Future<Output = ()> {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    async move {
        // An error means that it has ended already.
        let Ok(pidfd) = pidfd else { return };
        let wait = move || {
            let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
            rustix::event::poll(&mut watched, None)
        };
        tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    }
}
