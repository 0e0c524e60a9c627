//! Disks of the host with file systems, and containers that have them for roots.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use caisson_e2e::{Container, Shim, bundle};
use containerd_shim_protos::api;
use containerd_shim_protos::types::mount::Mount;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What busybox is in the roots.
const APPLETS: &[&str] = &[
    "cat",
    "chmod",
    "cp",
    "dd",
    "df",
    "echo",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "seq",
    "sh",
    "sleep",
    "sha256sum",
    "stat",
    "sync",
    "touch",
    "find",
    "sort",
    "wc",
];

#[track_caller]
pub(super) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A place for disks, and the tree that is on them.
pub(super) struct Host {
    directory: TempDir,
}

impl Host {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let tree = directory.path().join("tree");
        for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", tree.join("bin").join(applet)).unwrap();
        }
        fs::write(tree.join("etc/which"), "base").unwrap();
        fs::write(tree.join("etc/gone"), "base").unwrap();
        Self { directory }
    }

    /// What a root has: a busybox and a few files.
    pub(super) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A sparse file of so many MiB with an ext4, of the tree or empty.
    pub(super) fn ext4(&self, name: &str, mib: u64, of_tree: bool) -> Disk {
        let disk = self.file(name, mib);
        let tree = self.tree();
        let content: &[&str] = if of_tree {
            &["-d", tree.to_str().unwrap()]
        } else {
            &[]
        };
        let args = [&["-q", "-F", "-t", "ext4"], content, &[disk.text()]].concat();
        let _ = output("mke2fs", &args);
        disk
    }

    pub(super) fn file(&self, name: &str, mib: u64) -> Disk {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(mib << 20).unwrap();
        Disk(path)
    }

    pub(super) fn bytes(&self, name: &str, bytes: &[u8]) -> Disk {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        Disk(path)
    }
}

/// A file that is a disk.
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// How much of it the host has to keep, in bytes.
    pub(super) fn kept(&self) -> u64 {
        fs::metadata(&self.0).unwrap().blocks() * 512
    }

    /// A file system that was unmounted in good order, and nobody has it.
    #[track_caller]
    pub(super) fn assert_whole(&self) {
        self.assert_free();
        let _ = output("e2fsck", &["-f", "-n", self.text()]);
    }

    #[track_caller]
    pub(super) fn assert_free(&self) {
        let file = File::open(&self.0).unwrap();
        let lock = FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&file, lock).unwrap_or_else(|_| panic!("{} is in use", self.text()));
    }

    pub(super) fn mount(&self, kind: &str, options: &[&str]) -> Mount {
        mount(kind, self.text(), options)
    }
}

/// One of containerd's mounts.
pub(super) fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::new();
    kind.clone_into(&mut mount.type_);
    source.clone_into(&mut mount.source);
    mount.options = options.iter().map(|&option| option.to_owned()).collect();
    mount
}

/// A pod to whose shim a test speaks as containerd does, with mounts of its own choice.
pub(super) struct Pod {
    pub(super) shim: Shim,
    pub(super) holder: Container,
    bundles: TempDir,
}

impl Pod {
    pub(super) fn start(id: &str) -> Self {
        let group = format!("io.kubernetes.cri.sandbox-id={id}");
        let kind = "io.kubernetes.cri.container-type=sandbox";
        let options = ["--annotation", &group, "--annotation", kind];
        let holder = Container::start_with(&options, caisson_e2e::BUSYBOX, id, &["sleep", "9999"]);
        let bundles = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = fs::read(bundle(id).join("config.json")).unwrap();
        fs::write(bundles.path().join("config.json"), config).unwrap();
        Self {
            shim: Shim::of(id),
            holder,
            bundles,
        }
    }

    /// Creates a container with this root, which runs a script of its shell. `Err` has the words of
    /// the refusal.
    pub(super) fn create(&self, id: &str, rootfs: &[Mount], script: &str) -> Result<(), String> {
        let text = fs::read(self.bundles.path().join("config.json")).unwrap();
        let mut spec: Value = serde_json::from_slice(&text).unwrap();
        spec["process"]["args"] = json!(["sh", "-c", script]);
        spec["annotations"]["io.kubernetes.cri.container-type"] = "container".into();
        let directory = self.bundles.path().join(id);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.json"), spec.to_string()).unwrap();
        let mut request = api::CreateTaskRequest::new();
        id.clone_into(&mut request.id);
        request.bundle = directory.to_str().unwrap().to_owned();
        request.rootfs = rootfs.to_vec();
        let streams = format!("file://{}", self.output_file(id).display());
        request.stdout.clone_from(&streams);
        request.stderr = streams;
        let _ = fs::remove_file(self.output_file(id));
        let created = self.shim.tasks().create(self.shim.context(), &request);
        created.map(drop).map_err(|error| error.to_string())
    }

    fn output_file(&self, id: &str) -> PathBuf {
        self.bundles.path().join(format!("{id}.out"))
    }

    /// The shim, for calls about one of the containers.
    pub(super) fn of(&self, id: &str) -> Shim {
        self.shim.about(id)
    }

    /// Waits for the end of a container and deletes it: its output and exit code.
    #[track_caller]
    pub(super) fn end(&self, id: &str) -> (String, u32) {
        let shim = self.of(id);
        let status = shim.wait("").unwrap().exit_status;
        shim.delete("").unwrap();
        let output = fs::read_to_string(self.output_file(id)).unwrap_or_default();
        (output.trim().to_owned(), status)
    }

    /// Runs a script in a container with this root, from creation to deletion.
    #[track_caller]
    pub(super) fn run(&self, id: &str, rootfs: &[Mount], script: &str) -> String {
        self.create(id, rootfs, script).unwrap();
        self.of(id).start("").unwrap();
        let (output, status) = self.end(id);
        assert_eq!(status, 0, "{output}");
        output
    }

    /// Runs a script in a container that is there.
    #[track_caller]
    pub(super) fn exec(&self, id: &str, script: &str) -> String {
        let file = self.bundles.path().join("exec.out");
        let _ = fs::remove_file(&file);
        let stream = format!("file://{}", file.display());
        let shim = self.of(id);
        shim.exec_with("e", &["sh", "-c", script], ["", &stream, &stream])
            .unwrap();
        shim.start("e").unwrap();
        let status = shim.wait("e").unwrap().exit_status;
        shim.delete("e").unwrap();
        let output = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(status, 0, "{output}");
        output.trim().to_owned()
    }

    /// How many disks the guest has.
    pub(super) fn disks(&self) -> usize {
        let listed = self.holder.exec(&["ls", "/sys/block"]).finish().ok().text();
        listed.lines().filter(|name| name.starts_with("vd")).count()
    }
}

/// What a process has open below a directory.
pub(super) fn opened(pid: i32, below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let paths = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.filter(|path| path.starts_with(below)).collect()
}

/// A root of layers, the undermost first, and of what is written.
pub(super) fn layered_root(written: &Disk, layers: &[&Disk]) -> Vec<Mount> {
    let mut mounts = vec![written.mount("ext4", &["rw", "loop"])];
    let upwards = layers.iter().rev();
    mounts.extend(upwards.map(|layer| layer.mount("erofs", &["ro", "loop"])));
    let lower = format!("lowerdir={{{{ overlay 1 {} }}}}", layers.len());
    mounts.push(mount(
        "format/mkdir/overlay",
        "overlay",
        &[
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
            "workdir={{ mount 0 }}/work",
            "upperdir={{ mount 0 }}/upper",
            &lower,
        ],
    ));
    mounts
}
