//! What is wrong gets one clear error and leaves nothing behind.

use std::fs;
use std::path::Path;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr, RUNTIME, Settings, parent_of};
use rustix::process::{Pid, Signal, kill_process};

const KERNEL: &str = "/usr/local/share/caisson/vmlinux";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_program_that_is_not_in_the_image_is_named() {
    let _machine = CleanMachine::watch();
    let message = failure(&["no-such-program"]);
    assert!(
        message.contains("\"no-such-program\": executable file not found in $PATH"),
        "{message}"
    );
    let message = failure(&["/no/such/program"]);
    assert!(
        message.contains("/no/such/program") && message.contains("no such file"),
        "{message}"
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_file_that_is_not_executable_is_named() {
    let _machine = CleanMachine::watch();
    let message = failure(&["/etc/passwd"]);
    assert!(
        message.contains("/etc/passwd") && message.contains("permission denied"),
        "{message}"
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_missing_kernel_or_image_file_is_named() {
    let _machine = CleanMachine::watch();
    for key in ["kernel", "initrd"] {
        let _settings = Settings::write(&format!("{key} = \"/no/such/file\"\n"));
        let message = failure(&["true"]);
        assert!(
            message.contains("/no/such/file") && message.contains(key),
            "{message}"
        );
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_corrupt_kernel_is_named() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("corrupt");
    let _settings = Settings::write(&format!("kernel = \"{}\"\n", kernel.display()));

    fs::write(&kernel, "this is not a kernel").unwrap();
    let message = failure(&["true"]);
    assert!(
        message.contains("corrupt") && message.contains("ELF"),
        "{message}"
    );

    let whole = fs::read(KERNEL).unwrap();
    fs::write(&kernel, &whole[..whole.len() / 2]).unwrap();
    let message = failure(&["true"]);
    assert!(message.contains("corrupt"), "{message}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_machine_without_kvm_is_told_so() {
    let _machine = CleanMachine::watch();
    let _hidden = Hidden::new("/dev/kvm");
    let message = failure(&["true"]);
    assert!(message.contains("/dev/kvm"), "{message}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_unknown_key_in_the_configuration_is_named() {
    let _machine = CleanMachine::watch();
    let _settings = Settings::write("kernle = \"/boot/vmlinux\"\n");
    let message = failure(&["true"]);
    assert!(
        message.contains("kernle") && message.contains("config.toml"),
        "{message}"
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_configuration_without_a_program_is_refused() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir().unwrap();
    let spec = directory.path().join("spec.json");
    let text = r#"{"ociVersion":"1.0.2","root":{"path":"/"},
        "process":{"cwd":"/","args":[],"user":{"uid":0,"gid":0}}}"#;
    fs::write(&spec, text).unwrap();
    let spec = spec.to_str().unwrap();
    let words = [
        "run",
        "--rm",
        "--runtime",
        RUNTIME,
        "--config",
        spec,
        "no-program",
    ];
    let message = Ctr::new(&words).finish().failure();
    assert!(message.contains("args"), "{message}");
    let _ = Ctr::new(&["container", "rm", "no-program"]).finish();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_killed_virtual_machine_ends_its_task_and_can_be_removed() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "vmm-killed", &["sleep", "1000"]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| container.exec_as("waiting", &["sleep", "2000"]).finish());
        let running = "until pidof sleep | grep -q ' '; do :; done";
        let _ = container
            .exec_as("look", &["sh", "-c", running])
            .finish()
            .ok();
        kill(container.vmm_pid());
        assert_eq!(waiter.join().unwrap().code, 137);
    });
    assert_eq!(container.exit_code_at_delete(), 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_killed_shim_takes_its_virtual_machine_with_it() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "shim-killed", &["sleep", "1000"]);
    let (vmm, pod) = (container.vmm_pid(), container.host_pid());
    kill(parent_of(vmm));
    // containerd has noticed the shim's death by itself and cleaned up; there is no task any more.
    let deleted = container.task("delete", &["--force"]).failure();
    assert!(deleted.contains("not found"), "{deleted}");
    for pid in [vmm, pod] {
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
    // With a task it cannot find, ctr leaves behind the fifos that it made itself.
    fs::remove_dir_all("/run/containerd/fifo").unwrap();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_panic_of_the_guests_kernel_is_told_with_its_last_lines() {
    let _machine = CleanMachine::watch();
    let _settings = Settings::write("[vm]\nkernel_parameters = \"rdinit=/no/such/init\"\n");
    let message = failure(&["true"]);
    assert!(message.contains("panic"), "{message}");
    assert!(
        message.contains("VFS: ") || message.contains("No working init"),
        "{message}"
    );
}

#[track_caller]
fn failure(args: &[&str]) -> String {
    Ctr::run(BUSYBOX, "failing", args).finish().failure()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// A file that is out of sight while this value lives.
struct Hidden(&'static str);

impl Hidden {
    fn new(path: &'static str) -> Self {
        fs::rename(path, format!("{path}.hidden")).unwrap();
        Self(path)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        fs::rename(format!("{}.hidden", self.0), self.0).unwrap();
    }
}
