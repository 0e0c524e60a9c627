use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Local, put_in_place};
use crate::install::InstalledFile;
use crate::session::Stdin;
use crate::testbed::Command;

fn local() -> Local {
    Local {
        socket: "/no/such/containerd.sock".into(),
        containerd: None,
    }
}

fn run(words: &[&str]) -> u8 {
    let command = Command {
        arguments: words.iter().map(ToString::to_string).collect(),
        ..Command::default()
    };
    local().run(&command).unwrap().code()
}

#[test]
fn a_local_command_ends_with_its_own_status() {
    assert_eq!(run(&["sh", "-c", "exit 42"]), 42);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(run(&["/no/such/program"]), 127);
    assert_eq!(run(&["/etc/passwd"]), 126);
}

#[test]
fn a_local_command_knows_where_containerd_is() {
    let script = "test $CAISSON_TESTBED$CONTAINERD_ADDRESS = local/no/such/containerd.sock";
    assert_eq!(run(&["sh", "-c", script]), 0);
}

#[test]
fn what_cannot_be_run_locally_is_refused() {
    assert!(local().run(&Command::default()).is_err());
    let with_bytes = Command {
        arguments: vec!["cat".into()],
        stdin: Stdin::Bytes(vec![1]),
        ..Command::default()
    };
    assert!(local().run(&with_bytes).is_err());
}

#[test]
fn an_installed_file_replaces_the_old_one_and_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("new");
    fs::write(&source, "new").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    let destination = folder.path().join("a/b/program");
    let file = InstalledFile {
        source,
        destination: destination.clone(),
    };
    put_in_place(&file).unwrap();
    put_in_place(&file).unwrap();
    assert_eq!(fs::read_to_string(&destination).unwrap(), "new");
    let mode = fs::metadata(&destination).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
}
