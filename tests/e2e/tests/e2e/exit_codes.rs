//! Exit codes arrive unchanged, of the init process and of execs.

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn exit_codes_of_the_init_process_arrive_unchanged() {
    let _machine = CleanMachine::watch();
    for code in [0, 1, 127] {
        let script = format!("exit {code}");
        assert_eq!(
            Ctr::run(BUSYBOX, "init", &["sh", "-c", &script])
                .finish()
                .code,
            code
        );
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_init_process_killed_by_a_signal_reports_128_and_the_signal() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "killed", &["sleep", "1000"]);
    let _ = container.task("kill", &["--signal", "9"]).ok();
    assert_eq!(container.exit_code_at_delete(), 137);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn exit_codes_of_execs_arrive_unchanged() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "execs", &["sleep", "1000"]);
    for code in [0, 1, 42, 127, 255] {
        let script = format!("exit {code}");
        assert_eq!(container.exec(&["sh", "-c", &script]).finish().code, code);
    }
    let killed = container.exec(&["sh", "-c", "kill -9 $$"]).finish();
    assert_eq!(killed.code, 137);
}
