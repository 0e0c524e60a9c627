use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Namespaces, spawn};

/// Makes a script. Another process writes it: a descriptor open for writing in this one, copied
/// by a fork of another test, would make its execution fail with ETXTBSY.
fn script(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script");
    let status = Command::new("sh")
        .args([
            "-c",
            r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#,
        ])
        .arg(&path)
        .arg(text)
        .status()
        .unwrap();
    assert!(status.success());
    (directory, path)
}

/// Runs a script and returns what it wrote.
async fn run(text: &str, files: &[std::os::fd::BorrowedFd<'_>]) -> String {
    let (_directory, path) = script(text);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut child = spawn(&path, files, &writer, Namespaces::default()).unwrap();
    drop(writer);
    let mut output = String::new();
    pipe::Receiver::from_owned_fd(reader)
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    child.wait().await.unwrap();
    output
}

fn memory_file(content: &str) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&file, content.as_bytes()).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    file
}

#[tokio::test]
async fn files_arrive_in_order_and_nothing_else_does() {
    let (one, two) = (memory_file("one "), memory_file("two "));
    // Open and not close-on-exec in this process.
    let stray = rustix::io::dup(&one).unwrap();
    // A pipe in the script would itself be open for a moment.
    let script =
        "cat <&3; cat <&4; ls /proc/$$/fd; exec /usr/bin/env -u PWD -u OLDPWD -u _ -u SHLVL";
    let output = run(script, &[one.as_fd(), two.as_fd()]).await;
    // 10 is the shell's own handle of its script. No environment follows.
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(words, ["one", "two", "0", "1", "10", "2", "3", "4"]);
    drop(stray);
}

#[tokio::test]
async fn files_may_sit_where_the_others_are_to_go() {
    // Swapping the two is what a plain sequence of dup2 calls gets wrong.
    let (one, two) = (memory_file("one "), memory_file("two "));
    let output = run("cat <&3; cat <&4", &[two.as_fd(), one.as_fd()]).await;
    assert_eq!(output, "two one ");
}

#[tokio::test]
async fn standard_output_and_error_are_the_pipe_and_input_is_empty() {
    let output = run(
        "cat; echo out; echo err >&2; ps -o pgid= -p $$ | grep -qw $$ && echo leader",
        &[],
    )
    .await;
    assert_eq!(output, "out\nerr\nleader\n");
}

#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    let (_directory, path) = script("exec sleep 1000");
    let root = rustix::process::geteuid().is_root();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (_reader, writer) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            let namespaces = Namespaces {
                own_pids: root,
                ..Namespaces::default()
            };
            let child = spawn(&path, &[], &writer, namespaces).unwrap();
            let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
            let pidfd =
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            sender.send(pidfd).unwrap();
            // Neither waited for nor killed: the thread just ends.
            std::mem::forget(child);
        });
    });
    let pidfd = receiver.recv().unwrap();
    thread.join().unwrap();
    let mut watched = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut watched, Some(&limit)).unwrap(), 1);
}

#[tokio::test]
async fn a_program_that_cannot_run_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (_reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let file = memory_file("");
    let error = spawn(
        &directory.path().join("absent"),
        &[file.as_fd()],
        &writer,
        Namespaces::default(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn the_end_of_containerds_service_is_not_the_end_of_its_pods() {
    let output = run(
        "for s in TERM INT HUP; do kill -$s $$; done; echo alive",
        &[],
    )
    .await;
    assert_eq!(output, "alive\n");
}

#[tokio::test]
async fn a_helper_can_have_a_pid_namespace_of_its_own_and_dies_with_us_all_the_same() {
    let (_directory, path) = script("echo $$; exec sleep 1000");
    let ours = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let own = Namespaces {
        own_pids: true,
        ..Namespaces::default()
    };
    let mut child = match spawn(&path, &[], &writer, own) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: cannot make a pid namespace ({error}), needs root");
            return;
        }
        child => child.unwrap(),
    };
    drop(writer);
    let mut reader = pipe::Receiver::from_owned_fd(reader).unwrap();
    let mut number = [0; 2];
    reader.read_exact(&mut number).await.unwrap();
    assert_eq!(&number, b"1\n");
    let pid = child.id().unwrap();
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_ne!(theirs, ours);
    // Ours is what it was, and this thread can start others again.
    let link = |what| std::fs::read_link(format!("/proc/thread-self/ns/{what}")).unwrap();
    assert_eq!(link("pid_for_children"), ours);
    std::thread::spawn(|| ()).join().unwrap();

    child.kill().await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
