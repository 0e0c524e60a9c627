//! Further processes in a running container.

use std::thread;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_exec_sees_the_containers_files_and_processes() {
    let _machine = CleanMachine::watch();
    let container = Container::start(
        BUSYBOX,
        "sees",
        &["sh", "-c", "echo here >/tmp/f; sleep 1000"],
    );
    let _ = container
        .exec(&["sh", "-c", "until [ -s /tmp/f ]; do :; done"])
        .finish()
        .ok();
    assert_eq!(
        container.exec(&["cat", "/tmp/f"]).finish().ok().text(),
        "here"
    );
    let script = "tr '\\0' ' ' </proc/1/cmdline";
    let init = container.exec(&["sh", "-c", script]).finish().ok().text();
    assert!(init.contains("sleep 1000"), "process 1 is {init}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn several_execs_at_once_keep_their_output_apart() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "several", &["sleep", "1000"]);
    thread::scope(|scope| {
        for n in 0..5 {
            let container = &container;
            scope.spawn(move || {
                let word = format!("number-{n}");
                let output = container.exec_as(&word, &["echo", &word]).finish().ok();
                assert_eq!(output.text(), word);
            });
        }
    });
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_exec_of_a_missing_program_names_it_and_hurts_nothing() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "missing-exec", &["sleep", "1000"]);
    let message = container.exec(&["no-such-program"]).finish().failure();
    assert!(
        message.contains("\"no-such-program\": executable file not found in $PATH"),
        "{message}"
    );
    assert_eq!(
        container.exec(&["echo", "alive"]).finish().ok().text(),
        "alive"
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_exec_outlived_by_nothing_ends_with_its_container() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "outlived", &["sleep", "1000"]);
    thread::scope(|scope| {
        let exec = scope.spawn(|| container.exec_as("long", &["sleep", "2000"]).finish());
        let running = "until pidof sleep | grep -q ' '; do :; done";
        let _ = container
            .exec_as("look", &["sh", "-c", running])
            .finish()
            .ok();
        let _ = container.task("kill", &["--signal", "9"]).ok();
        assert_eq!(exec.join().unwrap().code, 137);
    });
    let refused = Ctr::new(&["task", "exec", "--exec-id", "late", "outlived", "true"]).finish();
    let _ = refused.failure();
}
