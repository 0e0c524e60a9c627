//! containerd that dies, and comes back to what it left.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Containerd, Shim, children_of, end_of, parent_of, signal,
    wait_for_fail_point,
};
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::{Events, create_events};
use rustix::process::Signal;

use super::tidy;

/// How long the calls stall in which containerd is killed, in milliseconds: the first are over
/// when it is back, the second are not. Each place is tried with each.
const STALLS: [u64; 2] = [500, 15_000];
/// How long something may take that follows a restart.
const PATIENCE: Duration = Duration::from_secs(60);

/// One test for each place, so that one that fails does not hide the others.
macro_rules! containerd_killed_while_a_task_is_made {
    ($($test:ident: $point:literal,)*) => {$(
        #[test]
        #[ignore = "needs the testbed: cargo verify"]
        fn $test() {
            STALLS.into_iter().for_each(|stall| killed_while_made($point, stall));
        }
    )*};
}

containerd_killed_while_a_task_is_made! {
    p03_containerd_killed_before_the_shim_listens_finds_nothing_left: "shim-before-listen",
    p03_containerd_killed_when_the_shim_listens_finds_nothing_left: "shim-after-listen",
    p03_containerd_killed_before_there_is_a_machine_finds_nothing_left: "create-before-vm",
    p03_containerd_killed_when_there_is_a_machine_finds_nothing_left: "create-after-vm",
    p03_containerd_killed_when_there_is_a_container_finds_nothing_left: "create-after-container",
    p03_containerd_killed_before_the_answer_finds_nothing_left: "create-before-answer",
}

fn killed_while_made(point: &str, stall: u64) {
    println!("{point}, {stall} ms");
    let _machine = CleanMachine::watch();
    let _left = Container::named(point);
    let mut containerd = Containerd::running();
    let points = format!("{point}=delay({stall})");
    let run = Container::run_faulty(&points, BUSYBOX, point, &["sleep", "1000"]);
    thread::scope(|scope| {
        let run = scope.spawn(|| run.finish());
        wait_for_fail_point(point, point);
        containerd.kill();
        let _ = run.join().unwrap().failure();
    });
    containerd.start();
    tidy(point);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p03_containerd_killed_in_any_call_of_a_tasks_life_finds_it_as_it_is() {
    for (stall, last) in STALLS
        .into_iter()
        .zip(["delete-before-guest", "delete-after-guest"])
    {
        println!("{last}, {stall} ms");
        let _machine = CleanMachine::watch();
        let container = Container::named(last);
        let mut containerd = Containerd::running();
        let points = ["start", "exec", "kill", last]
            .map(|point| format!("{point}=delay({stall})"))
            .join(",");
        let run = Container::run_faulty(&points, BUSYBOX, last, &["sleep", "1000"]);
        let mut killed_in = |point: &str, call: Box<dyn FnOnce() + Send + '_>| {
            thread::scope(|scope| {
                let call = scope.spawn(call);
                wait_for_fail_point(last, point);
                containerd.kill();
                call.join().unwrap();
            });
            containerd.start();
        };
        killed_in("start", Box::new(|| drop(run.finish().failure())));
        becomes(&container, "RUNNING");
        let exec = container.exec(&["true"]);
        killed_in("exec", Box::new(|| drop(exec.finish().failure())));
        assert_eq!(container.state(), "RUNNING");
        killed_in(
            "kill",
            Box::new(|| drop(container.task("kill", &["--signal", "9"]).failure())),
        );
        becomes(&container, "STOPPED");
        assert_eq!(Shim::of(last).wait("").unwrap().exit_status, 137);
        killed_in(
            last,
            Box::new(|| drop(container.task("delete", &[]).failure())),
        );
        tidy(last);
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p03_containerd_killed_while_the_shim_shuts_down_finds_nothing_left_of_it() {
    for stall in STALLS {
        println!("{stall} ms");
        let _machine = CleanMachine::watch();
        let points = format!("shutdown=delay({stall})");
        let container = Container::start_faulty(&points, BUSYBOX, "shutdown", &["true"]);
        let mut containerd = Containerd::running();
        becomes(&container, "STOPPED");
        thread::scope(|scope| {
            let delete = scope.spawn(|| container.task("delete", &[]));
            wait_for_fail_point("shutdown", "shutdown");
            containerd.kill();
            let _ = delete.join().unwrap();
        });
        containerd.start();
        tidy("shutdown");
    }
}

/// Waits until a task has come to a state that a call leads to which nobody waits for any more.
#[track_caller]
fn becomes(container: &Container, state: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = container.state();
        if now == state {
            return;
        }
        assert!(Instant::now() < deadline, "still {now} and not {state}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p04_an_end_while_containerd_is_down_is_kept_for_it() {
    const SOCKET: &str = "/run/containerd/containerd.sock.ttrpc";
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p04", &["sleep", "1000"]);
    let pid = container.host_pid();
    let shim = Shim::of("p04");
    let mut containerd = Containerd::running();
    containerd.kill();
    let _ = shim.kill("", 9).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);

    // Somebody comes back to where containerd takes events: here it is us, since containerd
    // itself takes them before anybody could listen to it.
    let _ = fs::remove_file(SOCKET);
    let (sender, received) = channel();
    let sink = Arc::new(Sink(Mutex::new(sender)));
    let mut server = ttrpc::Server::new()
        .bind(&format!("unix://{SOCKET}"))
        .unwrap()
        .register_service(create_events(sink));
    server.start().unwrap();
    let event = received.recv_timeout(PATIENCE).expect("the event was kept");
    assert_eq!(event.topic, "/tasks/exit");
    let exit = TaskExit::parse_from_bytes(&event.event.value).unwrap();
    assert_eq!((exit.id.as_str(), exit.exit_status), ("p04", 137));
    assert_eq!(exit.pid, pid.unsigned_abs());
    server.shutdown();

    containerd.start();
    assert_eq!(container.state(), "STOPPED");
    assert_eq!(Shim::of("p04").wait("").unwrap().exit_status, 137);
    assert_eq!(container.exit_code_at_delete(), 137);
    assert!(received.try_recv().is_err(), "one exit is told once");
}

/// Takes events in containerd's place.
struct Sink(Mutex<Sender<Envelope>>);

impl Events for Sink {
    fn forward(&self, _: &ttrpc::TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        self.0.lock().unwrap().send(envelope).unwrap();
        Ok(Empty::new())
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p20_a_task_starts_again_after_a_crash_of_the_host_that_emptied_run() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "p20", &["sleep", "1000"]);
    let shim = parent_of(container.host_pid());
    let pod = children_of(shim);
    let mut containerd = Containerd::running();
    containerd.kill();
    signal(shim, Signal::KILL);
    end_of(shim);
    pod.into_iter().for_each(end_of);
    for place in ["/run/caisson", "/run/containerd"] {
        fs::remove_dir_all(place).unwrap();
    }
    let kept = "/var/lib/containerd/io.containerd.runtime.v2.task/default/p20";
    assert!(Path::new(kept).exists(), "/var is as it was");

    containerd.start();
    let _ = container.start_again().ok();
    assert_eq!(container.state(), "RUNNING");
    assert_eq!(
        container.exec(&["echo", "again"]).finish().ok().text(),
        "again"
    );
}
