//! Delete: stalled, failed, and asked for many times at once.

use std::thread;
use std::time::Duration;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr, Shim, code, wait_for_fail_point};
use ttrpc::Code;

use super::tidy;

/// So many at once.
const DELETES: usize = 16;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p01_a_delete_whose_client_gave_up_is_finished_all_the_same() {
    let _machine = CleanMachine::watch();
    let points = "delete-before-guest=delay(5000)";
    let container = Container::start_faulty(points, BUSYBOX, "p01", &["sleep", "1000"]);
    let shim = Shim::of("p01");
    let _ = shim.kill("", 9).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);

    let gave_up = shim.within(Duration::from_millis(500)).delete("");
    assert!(gave_up.is_err() && code(&gave_up).is_none(), "{gave_up:?}");
    wait_for_fail_point("p01", "delete-before-guest");
    // It goes on without its client, and meanwhile the task is there and answers.
    assert_eq!(shim.state("").unwrap().exit_status, 137);

    // The one that is asked again waits for the first; that it is gone then is what it wanted.
    let again = container.task("delete", &[]);
    assert!(
        again.code == 0 || again.stderr.contains("not found"),
        "{}",
        again.stderr
    );
    let tasks = Ctr::new(&["task", "ls", "--quiet"]).finish().ok().text();
    assert!(!tasks.lines().any(|task| task == "p01"), "{tasks}");
    tidy("p01");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p01_a_delete_that_failed_succeeds_when_asked_again() {
    let _machine = CleanMachine::watch();
    let points = "delete-before-guest=error,shutdown=error";
    let container = Container::start_faulty(points, BUSYBOX, "p01", &["sh", "-c", "exit 33"]);
    assert_eq!(Shim::of("p01").wait("").unwrap().exit_status, 33);
    let message = container.task("delete", &[]).failure();
    assert!(
        message.contains("fail point delete-before-guest"),
        "{message}"
    );
    assert_eq!(container.state(), "STOPPED");
    assert_eq!(container.exit_code_at_delete(), 33);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p02_of_sixteen_deletes_one_deletes_and_the_others_find_nothing() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "p02", &["sleep", "1000"]);
    let shim = Shim::of("p02");
    shim.exec("e", &["sh", "-c", "exit 3"]).unwrap();
    shim.start("e").unwrap();
    assert_eq!(shim.wait("e").unwrap().exit_status, 3);
    all_at_once(&shim, "e", 3);
    let _ = shim.kill("", 9).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    all_at_once(&shim, "", 137);
    // containerd was not asked, and learns of it by the end of the shim.
    let _ = shim.shutdown().unwrap();
    tidy("p02");
}

fn all_at_once(shim: &Shim, exec: &str, status: u32) {
    let results: Vec<_> = thread::scope(|scope| {
        let deletes: Vec<_> = (0..DELETES)
            .map(|_| scope.spawn(|| shim.delete(exec)))
            .collect();
        deletes
            .into_iter()
            .map(|delete| delete.join().unwrap())
            .collect()
    });
    let deleted: Vec<_> = results
        .iter()
        .flatten()
        .map(|deleted| deleted.exit_status)
        .collect();
    assert_eq!(deleted, [status], "{results:?}");
    let not_found = |result: &&_| code(result) == Some(Code::NOT_FOUND);
    assert_eq!(
        results.iter().filter(not_found).count(),
        DELETES - 1,
        "{results:?}"
    );
}
