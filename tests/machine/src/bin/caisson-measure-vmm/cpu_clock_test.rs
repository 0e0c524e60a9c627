#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use super::used_by;

#[test]
fn a_process_has_used_some_time_and_one_that_is_gone_none() {
    assert!(!used_by(std::process::id()).unwrap().is_zero());
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    assert!(used_by(child.id()).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(used_by(child.id()).is_err());
}
