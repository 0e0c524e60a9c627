use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::spawn;

fn script(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (directory, path)
}

/// Runs a script and returns what it wrote.
async fn run(text: &str, files: &[std::os::fd::BorrowedFd<'_>]) -> String {
    let (_directory, path) = script(text);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut child = spawn(&path, files, &writer).unwrap();
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
    let output = run(
        "cat <&3; cat <&4; echo; ls /proc/$$/fd | tr '\\n' ' '; env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD='",
        &[one.as_fd(), two.as_fd()],
    )
    .await;
    // 10 is the shell's own handle of its script.
    assert_eq!(output, "one two \n0 1 10 2 3 4 ");
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

#[tokio::test]
async fn a_child_dies_with_its_parent() {
    let output = run(
        "grep -c . /dev/null; echo; exec sed -n 's/^SigIgn/&/p' /proc/self/status",
        &[],
    )
    .await;
    assert!(output.contains("SigIgn"));
    // The kernel keeps the parent-death signal across exec; prctl(PR_GET_PDEATHSIG) is 1.
    let (_directory, path) = script("exec sleep 1000");
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (_reader, writer) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            let child = spawn(&path, &[], &writer).unwrap();
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
    let error = spawn(&directory.path().join("absent"), &[file.as_fd()], &writer).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
