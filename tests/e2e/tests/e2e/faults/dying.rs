//! Processes of a pod that die: the virtual machine, the file server, the guest's kernel, the shim.

use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Containerd, Events, Shim, bundle, children_of, code, end_of,
    parent_of, signal,
};
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use rustix::process::Signal;
use ttrpc::Code;

use super::tidy;

/// 128 + SIGKILL.
const KILLED: u32 = 137;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p13_a_killed_virtual_machine_ends_every_wait() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p13", &["sleep", "1000"]);
    let vmm = container.vmm_pid();
    dies(&container, "p13", || signal(vmm, Signal::KILL));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p13_a_killed_file_server_ends_every_wait() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p13", &["sleep", "1000"]);
    let server = container.process("caisson-fs");
    dies(&container, "p13", || signal(server, Signal::KILL));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p13_a_panic_of_a_running_guest_ends_every_wait() {
    let _machine = CleanMachine::watch();
    let options = [
        "--privileged",
        "--privileged-without-host-devices",
        "--memory-limit",
        "33554432",
    ];
    let container = Container::start_with(&options, BUSYBOX, "p13", &["sleep", "1000"]);
    dies(&container, "p13", || {
        // tail keeps what it reads until the line ends, and /dev/zero has no line end.
        let script = "echo 2 >/proc/sys/vm/panic_on_oom; tail /dev/zero";
        let ended = container.exec_as("hog", &["sh", "-c", script]).finish();
        assert_eq!(ended.code, 137, "{}", ended.stderr);
    });
}

/// Has a pod with two waiting execs die, and sees that containerd learns of the end of each of its
/// processes, once, and can remove it.
fn dies(container: &Container, id: &str, death: impl FnOnce()) {
    let shim = Shim::of(id);
    let execs = ["one", "two"];
    for exec in execs {
        shim.exec(exec, &["sleep", "1000"]).unwrap();
        shim.start(exec).unwrap();
    }
    let events = Events::watch();
    thread::scope(|scope| {
        let waits = ["", "", "one", "two"].map(|exec| {
            let shim = &shim;
            scope.spawn(move || shim.wait(exec).unwrap().exit_status)
        });
        death();
        for wait in waits {
            assert_eq!(wait.join().unwrap(), KILLED);
        }
    });
    // It is dead, which is what a kill asks for.
    assert_eq!(code(&shim.kill("", 9)), Some(Code::NOT_FOUND));
    assert_eq!(container.exit_code_at_delete(), 137);

    let events = events.until_deleted(id);
    let exits: Vec<_> = events
        .iter()
        .filter(|event| event.topic == "/tasks/exit" && event.text("id") != "hog")
        .map(|event| {
            assert_eq!(event.number("exit_status"), u64::from(KILLED), "{event:?}");
            event.text("id")
        })
        .collect();
    assert_eq!(exits.len(), 3, "{events:#?}");
    assert_eq!(exits.last(), Some(&id), "the container is the last");
    assert!(execs.iter().all(|exec| exits.contains(exec)), "{exits:?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p14_a_killed_shim_takes_its_machine_along_and_its_end_is_told_with_the_right_pid() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p14", &["sleep", "1000"]);
    let pid = container.host_pid();
    let shim = parent_of(pid);
    let pod = children_of(shim);
    let events = Events::watch();
    signal(shim, Signal::KILL);
    pod.into_iter().for_each(end_of);
    let events = events.until_deleted("p14");
    let exit = events.iter().find(|event| event.topic == "/tasks/exit");
    assert!(exit.is_some(), "no exit: {events:#?}");
    let exit = exit.unwrap();
    assert_eq!(exit.number("pid"), u64::from(pid.unsigned_abs()));
    assert_eq!(exit.number("exit_status"), u64::from(KILLED));
    tidy("p14");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p14_delete_prints_the_pid_of_a_task_whose_shim_is_gone_and_can_be_repeated() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p14", &["sleep", "1000"]);
    let pid = container.host_pid();
    let shim = parent_of(pid);
    let pod = children_of(shim);
    let mut containerd = Containerd::running();
    containerd.kill();
    // First while everything lives, as for a shim that does not answer.
    for what in ["a live pod", "nothing"] {
        let output = delete("p14");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{what}: {said}");
        let answer = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(answer.pid, pid.unsigned_abs(), "{what}: {said}");
        assert_eq!(answer.exit_status, KILLED, "{what}");
        // Only the answer is on standard output.
        assert_eq!(answer.write_to_bytes().unwrap(), output.stdout, "{what}");
    }
    pod.into_iter().chain([shim]).for_each(end_of);
    assert!(!Path::new("/run/caisson").exists());
    containerd.start();
    tidy("p14");
}

/// The program as containerd runs it to clean up.
fn delete(id: &str) -> Output {
    let bundle = bundle(id);
    Command::new("containerd-shim-caisson-v2")
        .args(["-namespace", "default", "-id", id])
        .args(["-address", "/run/containerd/containerd.sock"])
        .args(["-publish-binary", "/usr/bin/containerd"])
        .arg("-bundle")
        .arg(&bundle)
        .arg("delete")
        .current_dir(&bundle)
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p05_a_frozen_guest_does_not_hold_up_what_containerd_asks_after_a_restart() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p05", &["sleep", "1000"]);
    let (vmm, pid) = (container.vmm_pid(), container.host_pid().unsigned_abs());
    let shim = Shim::of("p05");
    shim.exec("stuck", &["true"]).unwrap();
    signal(vmm, Signal::STOP);
    thread::scope(|scope| {
        let waits_for_the_guest = scope.spawn(|| shim.start("stuck"));
        for _ in 0..100 {
            assert_eq!(shim.connect().unwrap().task_pid, pid);
            assert_eq!(shim.pids().unwrap().processes.first().unwrap().pid, pid);
            assert_eq!(shim.state("").unwrap().pid, pid);
        }
        assert!(!waits_for_the_guest.is_finished());
        let mut containerd = Containerd::running();
        containerd.kill();
        containerd.start();
        assert_eq!(container.state(), "RUNNING");
        signal(vmm, Signal::CONT);
        waits_for_the_guest.join().unwrap().unwrap();
    });
    assert_eq!(shim.wait("stuck").unwrap().exit_status, 0);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_whose_guest_stands_still_can_be_removed() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "frozen", &["sleep", "1000"]);
    signal(container.vmm_pid(), Signal::STOP);
    let _ = container.task("delete", &["--force"]).ok();
}
