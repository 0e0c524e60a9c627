//! Machines that have run out of something, and services that are stopped.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Containerd, Ctr, children_of, parent_of, signal,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::tidy;

/// More than all of a pod needs.
const ENOUGH: u32 = 40;
/// How long a shim may take to end after the answer to its last call.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_full_disk_under_the_state_is_one_clear_error_and_leaves_nothing() {
    fills_up("/run/caisson");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_full_disk_under_the_bundles_is_one_clear_error_and_leaves_nothing() {
    fills_up("/run/containerd/io.containerd.runtime.v2.task/default");
}

/// Runs containers with one file more each time, until they have as many as they need.
fn fills_up(place: &str) {
    let needed = (1..ENOUGH).find(|files| has_room(place, *files));
    // In the first, not even the directory of the container could be made.
    assert!(needed > Some(2), "{needed:?} files were enough");
}

/// Whether a container runs with so many files left.
fn has_room(place: &str, files: u32) -> bool {
    println!("{files} files in {place}");
    let _machine = CleanMachine::watch();
    let disk = SmallDisk::mount(place, files);
    let run = Ctr::run(BUSYBOX, "full", &["echo", "room"]).finish();
    tidy("full");
    drop(disk);
    if run.code == 0 {
        assert_eq!(run.text(), "room");
        return true;
    }
    let message = run.stderr.to_lowercase();
    assert!(
        message.contains("no space left on device"),
        "{}",
        run.stderr
    );
    false
}

/// A file system with room for few files, in place of a directory.
struct SmallDisk<'a> {
    place: &'a Path,
    made: bool,
}

impl<'a> SmallDisk<'a> {
    fn mount(place: &'a str, files: u32) -> Self {
        let made = !Path::new(place).exists();
        fs::create_dir_all(place).unwrap();
        // Its root is a file as well.
        let options = CString::new(format!("nr_inodes={}", files + 1)).unwrap();
        // Not by the program, which leaves a folder of its own in /run.
        mount("small", place, "tmpfs", MountFlags::empty(), &*options).unwrap();
        Self {
            place: Path::new(place),
            made,
        }
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.place).unwrap().next().is_none()
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Until the shim is gone, it and containerd have a file of the bundle open.
        while !self.is_empty() || unmount(self.place, UnmountFlags::empty()).is_err() {
            assert!(
                Instant::now() < deadline,
                "{} is in use",
                self.place.display()
            );
            thread::sleep(Duration::from_millis(100));
        }
        if self.made {
            let _ = fs::remove_dir(self.place);
        }
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_shim_without_descriptors_refuses_what_needs_one_and_its_pod_lives() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "few", &["sleep", "1000"]);
    let shim = Pid::from_raw(parent_of(container.host_pid())).unwrap();
    let all = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(1),
        ..all
    };
    let before = prlimit(Some(shim), Resource::Nofile, none).unwrap();
    for _ in 0..3 {
        let message = container.exec(&["echo", "no"]).finish().failure();
        assert!(message.contains("Too many open files"), "{message}");
        assert_eq!(container.state(), "RUNNING");
    }
    prlimit(Some(shim), Resource::Nofile, before).unwrap();
    assert_eq!(container.exec(&["echo", "yes"]).finish().ok().text(), "yes");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_service_that_is_stopped_with_all_its_processes_leaves_the_pods_alone() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "lives", &["sleep", "1000"]);
    let pid = container.host_pid();
    let shim = parent_of(pid);
    let mut containerd = Containerd::running();
    for process in children_of(shim).into_iter().chain([shim]) {
        signal(process, Signal::TERM);
        signal(process, Signal::HUP);
    }
    containerd.stop();
    containerd.start();
    assert_eq!(container.state(), "RUNNING");
    assert_eq!(container.host_pid(), pid);
    assert_eq!(
        container.exec(&["echo", "alive"]).finish().ok().text(),
        "alive"
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p16_no_process_of_a_pod_has_a_pipe_of_containerds() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p16", &["sleep", "1000"]);
    let shim = parent_of(container.host_pid());
    let containerds = pipes_of(Containerd::running().pid());
    for process in children_of(shim).into_iter().chain([shim]) {
        let shared: Vec<_> = containerds
            .intersection(&pipes_of(process))
            .copied()
            .collect();
        assert!(shared.is_empty(), "process {process} has pipes {shared:?}");
    }
}

/// The inodes of a process's pipes, but not of FIFOs that have a name.
fn pipes_of(process: i32) -> BTreeSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    descriptors
        .flatten()
        .filter(|descriptor| {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            target.to_string_lossy().starts_with("pipe:")
        })
        .filter_map(|descriptor| Some(fs::metadata(descriptor.path()).ok()?.ino()))
        .collect()
}
