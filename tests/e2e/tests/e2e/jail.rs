//! What the processes of a pod have of the host: as little as they are meant to have.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr, DEBIAN, Settings};

/// The capabilities of the file server: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD,
/// SETFCAP.
const OF_FILES: &str = "00000000880000db";
const NONE: &str = "0000000000000000";
/// The users of VMMs, as the configuration has them by default.
const USERS: std::ops::Range<u32> = 2_100_000_000..2_100_065_536;

/// A running process.
struct Process(PathBuf);

impl Process {
    fn of(pid: i32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}")))
    }

    #[track_caller]
    fn read(&self, what: &str) -> String {
        fs::read_to_string(self.0.join(what)).unwrap()
    }

    #[track_caller]
    fn link(&self, what: &str) -> String {
        let link = fs::read_link(self.0.join(what)).unwrap();
        link.display().to_string()
    }

    /// The words of a line of `/proc/<pid>/<file>`.
    #[track_caller]
    fn words(&self, file: &str, line: &str) -> Vec<String> {
        let text = self.read(file);
        let found = text.lines().find_map(|text| text.strip_prefix(line));
        assert!(found.is_some(), "no {line} in {text}");
        let words = found.unwrap_or_default();
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// What its descriptors are open on.
    fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("fd")).unwrap();
        let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        links.map(|link| link.display().to_string()).collect()
    }

    #[track_caller]
    fn assert_apart(&self, namespaces: &[&str]) {
        let ours = Self::of(1);
        for name in namespaces {
            let name = format!("ns/{name}");
            assert_ne!(self.link(&name), ours.link(&name));
        }
        // It is the only process that it could see.
        assert_eq!(self.words("status", "NSpid:").get(1).unwrap(), "1");
    }

    #[track_caller]
    fn assert_privileges(&self, capabilities: &str) {
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(self.words("status", set), [capabilities], "{set}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(self.words("status", set), [NONE], "{set}");
        }
        assert_eq!(self.words("status", "Groups:").len(), 0);
        assert_eq!(self.words("status", "NoNewPrivs:"), ["1"]);
        assert_eq!(self.words("status", "Seccomp:"), ["2"]);
    }

    /// How many routes its network has.
    fn routes(&self) -> usize {
        // The first line, if there is one, names the columns.
        self.read("net/route").lines().skip(1).count()
    }

    fn user(&self) -> u32 {
        self.words("status", "Uid:")
            .first()
            .unwrap()
            .parse()
            .unwrap()
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_running_vmm_has_nothing_of_the_host_but_what_it_was_given() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "jail", &["sleep", "1000"]);
    let vmm = Process::of(container.vmm_pid());

    vmm.assert_apart(&["mnt", "pid", "net", "ipc", "uts", "cgroup"]);
    assert_eq!(fs::read_dir(vmm.0.join("root")).unwrap().count(), 0);
    let mounts = vmm.read("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    assert!(mounts.contains(" - tmpfs "), "{mounts}");
    // Not even the loopback interface of its network is up.
    let networks = vmm.read("net/dev");
    assert_eq!(networks.lines().count(), 3, "{networks}");
    assert_eq!(vmm.routes(), 0);

    vmm.assert_privileges(NONE);
    let user = vmm.user().to_string();
    assert!(USERS.contains(&vmm.user()), "{user}");
    for line in ["Uid:", "Gid:"] {
        assert_eq!(vmm.words("status", line), [&*user; 4]);
    }
    for (limit, most) in [
        ("Max open files", "8192"),
        ("Max processes", "512"),
        ("Max core file size", "0"),
    ] {
        assert_eq!(vmm.words("limits", limit)[..2], [most; 2], "{limit}");
    }

    // Each thread has the filter under which the machine was built, and one of its own.
    for task in fs::read_dir(vmm.0.join("task")).unwrap() {
        let task = Process(task.unwrap().path());
        let name = task.read("comm");
        assert_eq!(task.words("status", "Seccomp:"), ["2"], "{name}");
        assert_eq!(task.words("status", "Seccomp_filters:"), ["2"], "{name}");
    }

    // KVM, the guest's memory, the file of its user, and what has no name anywhere.
    let identity = format!("/run/caisson/.ids/{user}");
    let nameless = ["socket:[", "pipe:[", "anon_inode:", "/dev/null", "/dev/kvm"];
    for file in vmm.descriptors() {
        let known = nameless.iter().any(|known| file.starts_with(known))
            || file == identity
            || file.ends_with(" (deleted)");
        assert!(known, "{file}");
    }
    assert_eq!(fs::read_to_string(&identity).unwrap(), format!("{user}\n"));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_running_file_server_has_one_directory_and_the_privileges_of_files() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "jail", &["sleep", "1000"]);
    let server = Process::of(container.process("caisson-fs"));
    server.assert_apart(&["mnt", "pid", "net", "ipc", "uts", "cgroup"]);
    server.assert_privileges(OF_FILES);
    // The volumes of its pod and the containers, of which there is one.
    let names: BTreeSet<_> = fs::read_dir(server.0.join("root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [".volumes".into(), "jail".into()].into());
    assert!(!server.read("mountinfo").contains("/proc"));
    assert_eq!(server.routes(), 0);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_process_that_stands_for_a_pod_holds_nothing() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "jail", &["sleep", "1000"]);
    let pod = Process::of(container.host_pid());
    assert_eq!(pod.descriptors().len(), 3, "{:?}", pod.descriptors());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn every_vmm_is_a_user_of_its_own() {
    let _machine = CleanMachine::watch();
    let names = ["jail-1", "jail-2", "jail-3"];
    let containers = names.map(|name| Container::start(BUSYBOX, name, &["sleep", "1000"]));
    let users: BTreeSet<u32> = containers
        .iter()
        .map(|container| Process::of(container.vmm_pid()).user())
        .collect();
    assert_eq!(users.len(), names.len(), "{users:?}");
    for user in users {
        assert!(Path::new(&format!("/run/caisson/.ids/{user}")).exists());
    }
}

/// Makes calls with arguments that mean nothing, and says which filter its process has and what the
/// calls failed with: bpf, keyctl, userfaultfd and perf_event_open, and one that everybody may make.
const CALLS: &str = r#"
open my $status, "<", "/proc/self/status"; print grep /^Seccomp:/, <$status>;
for my $call (321, 250, 323, 298, 39) {
    my $result = syscall($call, -1, 0, 0, 0, 0);
    print $call, " ", $result < 0 ? $!{EPERM} ? "EPERM" : "another error" : "done", "\n";
}
"#;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_container_that_comes_without_a_filter_for_system_calls_gets_one() {
    let _machine = CleanMachine::watch();
    let program = ["perl", "-MErrno", "-e", CALLS];
    let said = Ctr::run(DEBIAN, "filtered", &program).finish().ok().text();
    assert_eq!(
        said,
        "Seccomp:\t2\n321 EPERM\n250 EPERM\n323 EPERM\n298 EPERM\n39 done"
    );

    let privileged = Ctr::run_with(&["--privileged"], DEBIAN, "privileged", &program);
    let said = privileged.finish().ok().text();
    assert!(said.starts_with("Seccomp:\t0\n"), "{said}");
    assert!(said.contains("250 another error"), "{said}");

    let _settings = Settings::write("[containers]\ndefault_filter = false\n");
    let said = Ctr::run(DEBIAN, "unfiltered", &program)
        .finish()
        .ok()
        .text();
    assert!(said.starts_with("Seccomp:\t0\n"), "{said}");
    assert!(said.contains("250 another error"), "{said}");
}
