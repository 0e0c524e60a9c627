//! P17: containers that share a pod by their annotations, which every containerd passes on in its
//! own way.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr, RUNTIME, parent_of};
use rustix::process::{Pid, Signal, kill_process};

const POD: &str = "io.kubernetes.cri.sandbox-id=pod";
const SANDBOX: &str = "io.kubernetes.cri.container-type=sandbox";
const MEMBER: &str = "io.kubernetes.cri.container-type=container";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p17_the_containers_of_a_pod_share_one_shim_and_one_machine() {
    let _machine = CleanMachine::watch();
    let pod = start(SANDBOX, "pod");
    let one = start(MEMBER, "one");
    let two = start(MEMBER, "two");
    let pids: BTreeSet<i32> = [&pod, &one, &two].map(Container::host_pid).into();
    assert_eq!(pids.len(), 1, "one process on the host: {pids:?}");
    assert_eq!(processes("caisson-pod"), Vec::from_iter(pids));
    assert_eq!(processes("caisson-vmm"), [pod.vmm_pid()]);
    // The name is cut off at 15 characters (proc_pid_comm(5)).
    assert_eq!(processes("containerd-shim"), [parent_of(pod.host_pid())]);
    let boots = [&pod, &one, &two].map(boot_id);
    assert!(boots.iter().all(|boot| *boot == boots[0]), "{boots:?}");
    assert_eq!(processes_inside(&one), 1, "each has processes of its own");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p17_a_member_comes_and_goes_and_the_pod_stays() {
    let _machine = CleanMachine::watch();
    let pod = start(SANDBOX, "pod");
    let one = start(MEMBER, "one");
    let two = start(MEMBER, "two");
    let (machine, boot) = (pod.vmm_pid(), boot_id(&pod));
    let _ = two.task("kill", &["--signal", "9"]).ok();
    await_stop(&two);
    assert_eq!(two.exit_code_at_delete(), 137);
    let rest = || [pod.state(), one.state()];
    assert_eq!(rest(), ["RUNNING", "RUNNING"]);
    assert_eq!((pod.vmm_pid(), boot_id(&one)), (machine, boot.clone()));
    drop(two);
    // The same name again, in the same machine.
    let again = start(MEMBER, "two");
    assert_eq!((again.vmm_pid(), boot_id(&again)), (machine, boot));
    drop(again);
    // The pod's own container may go before a member; the machine ends with the last of them.
    drop(pod);
    assert_eq!(one.state(), "RUNNING");
    assert_eq!(one.exec(&["echo", "alive"]).finish().ok().text(), "alive");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p17_a_member_without_its_pod_is_refused_and_gets_no_machine() {
    let _machine = CleanMachine::watch();
    let refused = |reason: &str| {
        let message = Ctr::new(&run(&["--rm"], MEMBER, "late", &["true"]))
            .finish()
            .failure();
        assert!(message.contains(reason), "{message}");
        let _ = Ctr::new(&["container", "rm", "late"]).finish();
    };
    refused("the shim of pod \"pod\" does not run");

    let pod = start(SANDBOX, "pod");
    let one = start(MEMBER, "one");
    kill_process(Pid::from_raw(pod.vmm_pid()).unwrap(), Signal::KILL).unwrap();
    await_stop(&one);
    assert_eq!(one.exit_code_at_delete(), 137);
    refused("the pod's virtual machine is gone");
    assert_eq!(processes("caisson-vmm"), [0; 0]);
    await_stop(&pod);
    assert_eq!(pod.exit_code_at_delete(), 137);
    refused("the shim of pod \"pod\" does not run");
}

#[track_caller]
fn start(role: &str, id: &str) -> Container {
    let options = ["--annotation", POD, "--annotation", role];
    Container::start_with(&options, BUSYBOX, id, &["sleep", "1000"])
}

fn run<'a>(options: &[&'a str], role: &'a str, id: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    let annotations = ["--annotation", POD, "--annotation", role];
    [
        &["run", "--runtime", RUNTIME],
        options,
        &annotations,
        &[BUSYBOX, id],
        args,
    ]
    .concat()
}

/// `ctr` has no way to wait for a task that it did not start.
#[track_caller]
fn await_stop(container: &Container) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while container.state() != "STOPPED" {
        assert!(Instant::now() < deadline, "the task did not stop");
    }
}

fn boot_id(container: &Container) -> String {
    let file = "/proc/sys/kernel/random/boot_id";
    container.exec(&["cat", file]).finish().ok().text()
}

/// Processes that a container sees, but for the one that counts them.
fn processes_inside(container: &Container) -> usize {
    let script = "ls /proc | grep -c '^[0-9]'";
    let text = container.exec(&["sh", "-c", script]).finish().ok().text();
    // sh, ls and grep look.
    text.parse::<usize>().unwrap() - 3
}

/// The processes of the host with this name.
fn processes(name: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let is_called = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_called)
        .collect()
}
