use std::process::{Child, Command};

use rustix::process::{Pid, WaitOptions, waitpid};

use super::ExitStatus;

fn status_of(script: &str) -> ExitStatus {
    let start = || -> Child { Command::new("sh").args(["-c", script]).spawn().unwrap() };
    let pid = Pid::from_child(&start());
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    ExitStatus::of_wait(status)
}

#[test]
fn an_exit_status_passes_unchanged() {
    for code in [0, 1, 42, 127, 255] {
        let status = status_of(&format!("exit {code}"));
        assert_eq!(status.code(), code);
        assert_eq!(status.success(), code == 0);
    }
}

#[test]
fn a_signal_becomes_128_and_its_number() {
    assert_eq!(status_of("kill -9 $$").code(), 137);
    assert_eq!(status_of("kill -15 $$").code(), 143);
}
