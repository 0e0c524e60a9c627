//! Many execs, at once and one after another, over the shim's own socket: `ctr` is too slow to make
//! a flood. The names begin with that of the pain in docs/testing.md; the shim's own tests do the
//! same with a guest that costs nothing, and higher numbers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Event, Events, Fifo, Footprint, Shim, code, parent_of,
};
use ttrpc::Code;

/// How many execs run at once: as many as a small guest, which makes a process for each, holds in
/// emulation. The shim's own test has 500.
const AT_ONCE: usize = 20;
/// How many short execs run one after another.
const SHORT: usize = 50;
/// How many execs a shim must bear without growing.
const LONG_LIFE: usize = 300;
/// What a FIFO holds, so that nobody has to read while it is filled.
const FIFO: usize = 64 * 1024;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p06_of_many_execs_at_once_each_ends_once_with_its_own_code() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "at-once", &["sleep", "1000"]);
    let shim = Shim::of("at-once");
    let events = Events::watch();
    thread::scope(|scope| {
        for number in 0..AT_ONCE {
            let shim = &shim;
            scope.spawn(move || {
                let wanted = number % 256;
                let exec = format!("e{number}");
                let script = format!("exit {wanted}");
                let (waited, deleted) = run(shim, &exec, &["sh", "-c", &script], "");
                assert_eq!((waited, deleted), (wanted, wanted), "{exec}");
            });
        }
    });
    told_in_order("at-once", &events, AT_ONCE, |number| number % 256);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p07_an_end_is_never_told_before_its_start() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "in-order", &["sleep", "1000"]);
    let shim = Shim::of("in-order");
    let events = Events::watch();
    for number in 0..SHORT {
        let _ = run(&shim, &format!("e{number}"), &["true"], "");
    }
    told_in_order("in-order", &events, SHORT, |_| 0);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p08_open_waits_a_slow_client_and_a_flood_hold_up_nobody() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "waits", &["sleep", "1000"]);
    let shim = Shim::of("waits");
    let _slow = never_reads(&shim);
    thread::scope(|scope| {
        let waits: Vec<_> = (0..200)
            .map(|_| scope.spawn(|| shim.wait("").map(|exit| exit.exit_status)))
            .collect();
        let execs: Vec<_> = (0..30)
            .map(|number| {
                let shim = &shim;
                scope.spawn(move || run(shim, &format!("e{number}"), &["true"], ""))
            })
            .collect();
        for exec in execs {
            assert_eq!(exec.join().unwrap(), (0, 0));
        }
        assert!(waits.iter().all(|wait| !wait.is_finished()));
        let _ = container.task("kill", &["--signal", "9"]).ok();
        for wait in waits {
            assert_eq!(wait.join().unwrap(), Ok(137));
        }
    });
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p08_a_message_above_four_mebibytes_is_refused_and_calls_given_up_are_finished() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "storm", &["sleep", "1000"]);
    let shim = Shim::of("storm");

    let mut stream = UnixStream::connect(shim.socket()).unwrap();
    stream
        .write_all(&frame(1, &vec![b'x'; (4 << 20) + 1]))
        .unwrap();
    let refused = answer(&mut stream);
    assert!(
        String::from_utf8_lossy(&refused).contains("maximum message size"),
        "{refused:?}"
    );

    for number in 0..20 {
        let exec = format!("e{number}");
        shim.exec(&exec, &["sh", "-c", "exit 3"]).unwrap();
        let hurried = shim.within(Duration::from_millis(1 + number % 10));
        let _ = hurried.wait(&exec);
        let _ = hurried.start(&exec);
        let again = shim.start(&exec);
        assert!(
            again.is_ok() || code(&again) == Some(Code::FAILED_PRECONDITION),
            "{again:?}"
        );
        assert_eq!(shim.wait(&exec).unwrap().exit_status, 3);
        let _ = hurried.delete(&exec);
        let again = shim.delete(&exec);
        assert!(
            again.is_ok() || code(&again) == Some(Code::NOT_FOUND),
            "{again:?}"
        );
    }
    assert_eq!(shim.pids().unwrap().processes.len(), 1);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p19_the_output_of_a_process_that_ends_at_once_is_whole() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "whole", &["sleep", "1000"]);
    let shim = Shim::of("whole");
    let script = format!("printf %{FIFO}s x");
    for number in 0..SHORT {
        let fifo = Fifo::new();
        let mut reader = fifo.reader();
        let _ = run(
            &shim,
            &format!("e{number}"),
            &["sh", "-c", &script],
            &fifo.name(),
        );
        // It has been waited for and deleted: all is in the FIFO, and the writer is gone.
        let mut output = Vec::new();
        reader.read_to_end(&mut output).unwrap();
        assert_eq!(output.len(), FIFO, "exec {number}");
        assert!(output.ends_with(b" x"), "exec {number}");
    }
}

/// The shim of a pod with a long life and many execs is no larger than at its start.
#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p21_a_long_life_makes_the_shim_no_larger() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "long-life", &["sleep", "1000"]);
    let shim = Shim::of("long-life");
    let pid = parent_of(container.host_pid());
    let fifo = Fifo::new();
    let mut reader = fifo.reader();
    let mut live = |name: &str, execs: usize| {
        for number in 0..execs {
            let _ = run(
                &shim,
                &format!("{name}{number}"),
                &["echo", "words"],
                &fifo.name(),
            );
        }
        let mut output = Vec::new();
        reader.read_to_end(&mut output).unwrap();
        assert_eq!(output.len(), execs * 6);
    };
    // The first ones fill what is kept for the next.
    live("first", 30);
    let before = Footprint::of(pid);
    live("e", LONG_LIFE);
    let after = Footprint::of(pid);
    println!("{LONG_LIFE} execs: {before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
    assert!(
        after.threads <= before.threads,
        "{before:?}, then {after:?}"
    );
    assert!(
        after.resident_kib <= before.resident_kib + 2048,
        "{before:?}, then {after:?}"
    );
}

/// An exec from its addition to its deletion; the exit codes that Wait and Delete tell.
fn run(shim: &Shim, exec: &str, args: &[&str], stdout: &str) -> (usize, usize) {
    shim.exec_with(exec, args, ["", stdout, ""]).unwrap();
    shim.start(exec).unwrap();
    let waited = shim.wait(exec).unwrap().exit_status;
    let deleted = shim.delete(exec).unwrap().exit_status;
    (waited as usize, deleted as usize)
}

/// Checks that containerd told of the execs e0, e1, … their addition, start and end once, in this
/// order and with the right code.
#[track_caller]
fn told_in_order(container: &str, events: &Events, execs: usize, code: impl Fn(usize) -> usize) {
    // A shim tells in order: after this one's end nothing is missing.
    let _ = run(&Shim::of(container), "last", &["true"], "");
    let told = events.until(container, |event| event.short() == ("exit", "last"));
    for number in 0..execs {
        let exec = format!("e{number}");
        let told: Vec<&Event> = told
            .iter()
            .filter(|event| event.short().1 == exec)
            .collect();
        let topics: Vec<&str> = told.iter().map(|event| event.short().0).collect();
        assert_eq!(topics, ["exec-added", "exec-started", "exit"], "{exec}");
        let last = told.last().map(|event| event.number("exit_status"));
        assert_eq!(last, Some(code(number) as u64), "{exec}");
    }
}

/// A client that asks many times and reads no answer.
fn never_reads(shim: &Shim) -> UnixStream {
    let mut stream = UnixStream::connect(shim.socket()).unwrap();
    stream.set_nonblocking(true).unwrap();
    for call in 0..1000 {
        // A request that names no service is answered like any other.
        if stream.write(&frame(2 * call + 1, b"")).is_err() {
            // The socket is full: the shim has stopped to read for us.
            break;
        }
    }
    stream
}

/// A request as ttrpc frames it: length, stream, type, flags, payload.
fn frame(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([1, 0]);
    frame.extend(payload);
    frame
}

/// The next answer on a connection.
fn answer(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut rest = vec![0; 6 + u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut rest).unwrap();
    rest
}
