use std::fs;

use super::*;

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn output_goes_to_the_log_and_steps_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = "echo '  CC a.o'; echo noise >&2; echo '  LD b'";
    assert_eq!(run_logged(shell(script), "test", &log, Some(2)).unwrap(), 2);
    assert_eq!(
        fs::read_to_string(log).unwrap(),
        "  CC a.o\nnoise\n  LD b\n"
    );
}

#[test]
fn a_failure_shows_the_end_of_the_log_only() {
    let dir = tempfile::tempdir().unwrap();
    let script = "seq 1 1000; echo 'error: no such option'; exit 3";
    let error = run_logged(shell(script), "compiling", &dir.path().join("log"), None).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("compiling: failed (exit status: 3)"),
        "{message}"
    );
    assert!(
        message.ends_with("1000\nerror: no such option"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1 + SHOWN_LINES);
}

#[test]
fn the_percentage_stays_below_100_until_the_end() {
    let mut counter = Counter::new(Some(4));
    let mut seen = Vec::new();
    for _ in 0..6 {
        counter.step();
        seen.push(counter.percent().unwrap());
    }
    assert_eq!(seen, [25, 50, 75, 99, 99, 99]);
    assert_eq!(Counter::new(Some(0)).percent(), None);
}
