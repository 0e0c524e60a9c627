//! Execs that meet each other, their container's end, and their own names.

use std::collections::BTreeMap;
use std::thread;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Events, Shim, code};
use ttrpc::Code;

/// So many execs start while their container ends.
const EXECS: usize = 12;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p18_an_execs_name_is_taken_until_it_is_deleted_and_then_free() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "p18", &["sleep", "1000"]);
    let shim = Shim::of("p18");

    shim.exec("e", &["true"]).unwrap();
    let twice = shim.exec("e", &["true"]);
    assert_eq!(code(&twice), Some(Code::ALREADY_EXISTS));
    assert_eq!(
        code(&shim.kill("e", 9)),
        Some(Code::FAILED_PRECONDITION),
        "it does not run"
    );
    // Added and never started.
    shim.delete("e").unwrap();
    assert_eq!(code(&shim.state("e")), Some(Code::NOT_FOUND));

    for status in [3, 4] {
        shim.exec("e", &["sh", "-c", &format!("exit {status}")])
            .unwrap();
        shim.start("e").unwrap();
        assert_eq!(shim.wait("e").unwrap().exit_status, status);
        let again = shim.start("e");
        assert_eq!(code(&again), Some(Code::FAILED_PRECONDITION));
        assert_eq!(code(&shim.kill("e", 9)), Some(Code::NOT_FOUND));
        assert_eq!(shim.delete("e").unwrap().exit_status, status);
    }

    shim.exec("e", &["/no/such/program"]).unwrap();
    assert!(shim.start("e").is_err());
    shim.delete("e").unwrap();

    shim.exec("e", &["sleep", "1000"]).unwrap();
    shim.start("e").unwrap();
    let running = shim.delete("e");
    assert_eq!(code(&running), Some(Code::FAILED_PRECONDITION));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p18_execs_that_start_while_the_container_ends_run_or_are_refused_and_each_ends_once() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p18", &["sleep", "1000"]);
    let shim = Shim::of("p18");
    let names: Vec<_> = (0..EXECS).map(|n| format!("e{n}")).collect();
    for name in &names {
        shim.exec(name, &["sleep", "1000"]).unwrap();
    }
    let events = Events::watch();
    let started: Vec<bool> = thread::scope(|scope| {
        let starts: Vec<_> = names
            .iter()
            .map(|name| {
                let shim = &shim;
                scope.spawn(move || shim.start(name))
            })
            .collect();
        let _ = shim.kill("", 9).unwrap();
        starts
            .into_iter()
            .map(|start| {
                let result = start.join().unwrap();
                // Not "unknown", and not nothing at all.
                assert!(result.is_ok() || code(&result).is_some(), "{result:?}");
                result.is_ok()
            })
            .collect()
    });
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    for (name, started) in names.iter().zip(&started) {
        if *started {
            assert_eq!(shim.wait(name).unwrap().exit_status, 137, "{name}");
        }
        shim.delete(name).unwrap();
    }
    assert_eq!(container.exit_code_at_delete(), 137);

    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events.until_deleted("p18") {
        let (topic, process) = event.short();
        seen.entry(process.to_owned())
            .or_default()
            .push(topic.to_owned());
    }
    for (name, started) in names.iter().zip(started) {
        let expected: &[&str] = if started {
            &["exec-started", "exit"]
        } else {
            &[]
        };
        let events = seen.get(name).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(events, expected, "{name}");
    }
    assert_eq!(seen.get("p18").unwrap(), &["exit", "delete"]);
}
