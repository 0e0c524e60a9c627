//! The least that must work with every version of containerd.

mod pods;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr, DEBIAN};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_busybox_container_prints_the_guests_kernel_and_not_the_hosts() {
    let _machine = CleanMachine::watch();
    let release = Ctr::run(BUSYBOX, "kernel", &["uname", "-r"])
        .finish()
        .ok()
        .text();
    assert!(
        release.ends_with("-caisson"),
        "uname -r in the container: {release}"
    );
    assert_ne!(release, host_kernel());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_debian_container_runs_perl_on_the_guests_kernel() {
    let _machine = CleanMachine::watch();
    let program = "use POSIX; print((POSIX::uname())[2], ' ', 6 * 7)";
    let output = Ctr::run(DEBIAN, "perl", &["perl", "-e", program])
        .finish()
        .ok()
        .text();
    assert!(output.ends_with("-caisson 42"), "perl printed: {output}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_container_is_listed_takes_an_exec_and_is_removed() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "listed", &["sleep", "1000"]);
    assert_eq!(container.state(), "RUNNING");
    let output = container
        .exec(&["sh", "-c", "echo inside; exit 3"])
        .finish();
    assert_eq!((output.text().as_str(), output.code), ("inside", 3));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_failing_command_fails_the_run_with_its_exit_code() {
    let _machine = CleanMachine::watch();
    assert_eq!(
        Ctr::run(BUSYBOX, "failing", &["sh", "-c", "exit 42"])
            .finish()
            .code,
        42
    );
}

fn host_kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap()
        .trim()
        .to_owned()
}
