//! A container without limits that takes all there is of something, and keeps it. What it takes is its
//! own machine's, or bounded: the host's processes grow no further than they may, its shim answers, the
//! container in the same pod goes on, the pod beside it works, and it can be killed and deleted, with
//! nothing left behind.
//!
//! What it does is in `exhaustion.py`, which says what it got until it was refused.

use std::fs;
use std::io::{BufRead, BufReader, Read};

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, DEBIAN, Fifo, Footprint, Shim, parent_of, wait_until,
};
use containerd_shim_protos::api::Status;
use tempfile::TempDir;

const PROGRAM: &str = include_str!("exhaustion.py");
/// For more open files than are usual.
const ABLE: [&str; 1] = ["CAP_SYS_RESOURCE"];
/// Its limit of open files is the shell's business: python's smallest installation cannot set it.
const START: &str = r#"ulimit -n 1000000 && exec python3 -c "$1" "$2""#;
/// Memory that a pod without limits has, in MiB.
const MACHINE: usize = 256;

/// A setting of the host's kernel, changed for the time of a test.
struct Setting {
    file: &'static str,
    before: String,
}

impl Setting {
    fn write(file: &'static str, value: usize) -> Self {
        let before = fs::read_to_string(file).unwrap();
        fs::write(file, value.to_string()).unwrap();
        Self { file, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.file, &self.before);
    }
}

/// A container that takes everything, the other one of its pod, and a pod beside it.
struct Attacked {
    hostile: Container,
    companion: Container,
    neighbour: Container,
    shim: Shim,
    /// Those of the host that serve it: shim, VMM, file server; and what they held at first.
    processes: [i32; 3],
    before: [Footprint; 3],
    _volume: TempDir,
}

impl Attacked {
    fn start() -> Self {
        let volume = tempfile::tempdir().unwrap();
        let mount = format!(
            "type=bind,src={},dst=/volume,options=rbind:rw",
            volume.path().display()
        );
        let neighbour = Container::start(BUSYBOX, "neighbour", &["sleep", "1000"]);
        let pod = ["--annotation", "io.kubernetes.cri.sandbox-id=companion"];
        let role = |role| ["--annotation", role];
        let sandbox = role("io.kubernetes.cri.container-type=sandbox");
        let member = role("io.kubernetes.cri.container-type=container");
        let options = [pod, sandbox].concat();
        let companion = Container::start_with(&options, BUSYBOX, "companion", &["sleep", "1000"]);
        let options = [pod, member, ["--mount", &mount]].concat();
        let hostile = Container::start_with(&options, DEBIAN, "hostile", &["sleep", "1000"]);
        // Its machine has everything that it will have.
        wait_until("the guest has its balloon", || {
            let drivers = "/sys/bus/virtio/drivers/virtio_balloon";
            let devices = companion.exec(&["ls", drivers]).finish();
            devices.text().contains("virtio")
        });
        let processes = [
            parent_of(hostile.host_pid()),
            hostile.vmm_pid(),
            hostile.process("caisson-fs"),
        ];
        Self {
            shim: Shim::of("hostile"),
            hostile,
            companion,
            neighbour,
            processes,
            before: processes.map(Footprint::of),
            _volume: volume,
        }
    }

    /// Has the container take everything of a kind; what it says of it, or why it ended before.
    #[track_caller]
    fn take(&self, what: &str) -> String {
        let (output, errors) = (Fifo::new(), Fifo::new());
        let (reader, mut last_words) = (output.reader(), errors.reader());
        let streams = ["", &output.name(), &errors.name()];
        let args = ["sh", "-c", START, "sh", PROGRAM, what];
        self.shim.exec_able(what, &args, streams, &ABLE).unwrap();
        self.shim.start(what).unwrap();
        let mut said = String::new();
        let _ = BufReader::new(reader).read_line(&mut said).unwrap();
        if said.is_empty() {
            let _ = last_words.read_to_string(&mut said).unwrap();
        }
        println!("{what}: {}", said.trim());
        said.trim().to_owned()
    }

    /// Makes sure that nobody but the container is worse off; what its file server holds.
    #[track_caller]
    fn hurts_nobody(&self) -> Footprint {
        let state = self.shim.state("").unwrap();
        assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
        assert!(!self.shim.pids().unwrap().processes.is_empty());
        assert_eq!(self.companion.state(), "RUNNING");
        let well = self.neighbour.exec(&["echo", "well"]).finish().ok();
        assert_eq!(well.text(), "well");
        let now = self.processes.map(Footprint::of);
        let [shim, vmm, files] = now;
        let [shim_before, vmm_before, files_before] = self.before;
        println!("before: {:?}", self.before);
        assert!(shim.descriptors <= shim_before.descriptors + 8, "{now:?}");
        assert!(
            shim.resident_kib <= shim_before.resident_kib + 4096,
            "{now:?}"
        );
        assert!(vmm.descriptors <= vmm_before.descriptors + 8, "{now:?}");
        assert!(vmm.threads <= vmm_before.threads, "{now:?}");
        assert!(vmm.resident_kib <= (MACHINE + 32) << 10, "{now:?}");
        assert_eq!(files.threads, files_before.threads, "{now:?}");
        files
    }

    /// Makes sure that it can be killed and deleted, and that its pod has everything again.
    #[track_caller]
    fn end(self) {
        let _ = self.shim.kill("", 9);
        assert_eq!(self.shim.wait("").unwrap().exit_status, 137);
        assert_eq!(self.hostile.exit_code_at_delete(), 137);
        let well = self.companion.exec(&["echo", "well"]).finish().ok();
        assert_eq!(well.text(), "well");
    }
}

/// The count and the refusal in what it said.
#[track_caller]
fn taken(said: &str, what: &str) -> (usize, String) {
    let mut words = said.split_whitespace();
    assert_eq!(words.next(), Some(what), "{said}");
    let count = words.next().and_then(|count| count.parse().ok());
    (count.unwrap(), words.next().unwrap_or_default().to_owned())
}

/// A file that the guest knows is a descriptor of the file server, one that it has open another.
#[test]
#[ignore = "needs the testbed: cargo verify"]
fn files_without_end_are_refused_and_names_are_forgotten_again() {
    /// A quarter of what the host lets all have that are not root.
    const MOST: usize = 1024;
    let _machine = CleanMachine::watch();
    let _setting = Setting::write("/proc/sys/fs/file-max", 4 * MOST);
    let attacked = Attacked::start();

    let (open, refusal) = taken(&attacked.take("files"), "files");
    assert_eq!(refusal, "ENFILE");
    let files = attacked.hurts_nobody();
    assert!(
        2 * open <= MOST && files.descriptors <= MOST,
        "{open}, {files:?}"
    );
    assert!(
        files.resident_kib <= attacked.before[2].resident_kib + 16384,
        "{files:?}"
    );
    attacked.shim.kill("files", 9).unwrap();
    assert_eq!(attacked.shim.wait("files").unwrap().exit_status, 137);

    let (known, refusal) = taken(&attacked.take("names"), "names");
    assert_eq!(refusal, "ENFILE");
    assert!(known > 100, "{known}");
    let files = attacked.hurts_nobody();
    assert!(files.descriptors <= MOST, "{files:?}");
    attacked.end();
}

/// The guest's kernel ends who takes its memory; its processes are counted, and some are left to the agent.
#[test]
#[ignore = "needs the testbed: cargo verify"]
fn memory_and_threads_without_end_are_the_machines_own() {
    let _machine = CleanMachine::watch();
    let attacked = Attacked::start();
    assert_eq!(attacked.take("memory"), "");
    assert_eq!(attacked.shim.wait("memory").unwrap().exit_status, 137);
    let _ = attacked.hurts_nobody();

    let (count, refusal) = taken(&attacked.take("threads"), "threads");
    assert_eq!(refusal, "EAGAIN");
    // Those of a machine of 256 MiB, without what the agent keeps.
    assert!((1000..1848 - 100).contains(&count), "{count}");
    let _ = attacked.hurts_nobody();
    // The agent has processes left to try it with, and says what is missing.
    let own = attacked.hostile.exec_as("own", &["echo", "well"]);
    let refused = own.finish().failure();
    println!("an exec: {}", refused.trim());
    assert!(
        refused.contains("Resource temporarily unavailable"),
        "{refused}"
    );
    attacked.end();
}
