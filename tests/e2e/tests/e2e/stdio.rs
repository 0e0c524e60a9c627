//! Where standard streams can go, and readers and writers that stall, leave and come back. The
//! names of some begin with that of the pain in docs/testing.md.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Fifo, Shim, code};
use containerd_shim_protos::api;
use sha2::{Digest, Sha256};
use ttrpc::Code;

/// More than every buffer between a process and its reader holds together.
const MUCH: usize = 4 << 20;
/// What goes through `cat` and back.
const BOTH_WAYS: usize = 16 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p09_a_reader_that_stops_holds_up_its_own_stream_only_and_loses_nothing() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "stalled", &["sleep", "1000"]);
    let shim = Shim::of("stalled");
    let (stalled, errors) = (Fifo::new(), Fifo::new());
    let (mut reader, mut error_reader) = (stalled.reader(), errors.reader());
    let script = format!(
        "head -c {MUCH} /dev/urandom >/tmp/much; sha256sum </tmp/much >&2; exec cat /tmp/much"
    );
    let streams = ["", &stalled.name(), &errors.name()];
    shim.exec_with("e", &["sh", "-c", &script], streams)
        .unwrap();
    shim.start("e").unwrap();
    // The sum comes before the output, and on a stream that is read: what follows it stalls.
    let mut sum = [0; 64];
    error_reader.read_exact(&mut sum).unwrap();

    let state = shim.state("e").unwrap();
    assert_eq!(state.status.enum_value(), Ok(api::Status::RUNNING));
    let beside = Fifo::new();
    let mut beside_reader = beside.reader();
    let script = format!("head -c {MUCH} /dev/zero");
    shim.exec_with("beside", &["sh", "-c", &script], ["", &beside.name(), ""])
        .unwrap();
    shim.start("beside").unwrap();
    let mut output = Vec::new();
    beside_reader.read_to_end(&mut output).unwrap();
    assert_eq!(output.len(), MUCH);
    assert_eq!(shim.wait("beside").unwrap().exit_status, 0);
    let _ = shim.delete("beside").unwrap();
    let state = shim.state("e").unwrap();
    assert_eq!(state.status.enum_value(), Ok(api::Status::RUNNING));

    let mut output = Vec::new();
    reader.read_to_end(&mut output).unwrap();
    assert_eq!(output.len(), MUCH);
    assert_eq!(hex(&Sha256::digest(&output)).as_bytes(), sum);
    assert_eq!(shim.wait("e").unwrap().exit_status, 0);
    let _ = shim.delete("e").unwrap();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p09_a_reader_that_leaves_stops_nobody_and_finds_the_rest_when_it_is_back() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "left", &["sleep", "1000"]);
    let shim = Shim::of("left");
    let (stdin, stdout) = (Fifo::new(), Fifo::new());
    let reader = stdout.reader();
    let script = "read go; echo to nobody; exit 5";
    let streams = [stdin.name(), stdout.name()];
    shim.exec_with("e", &["sh", "-c", script], [&streams[0], &streams[1], ""])
        .unwrap();
    shim.start("e").unwrap();
    drop(reader);
    stdin.writer().write_all(b"go\n").unwrap();
    assert_eq!(shim.wait("e").unwrap().exit_status, 5);
    let _ = shim.delete("e").unwrap();

    // More than fits in between, and back only when the process waits for that.
    let reader = stdout.reader();
    let script = format!("head -c {MUCH} /dev/zero | tr '\\0' y; exit 6");
    shim.exec_with("much", &["sh", "-c", &script], ["", &streams[1], ""])
        .unwrap();
    shim.start("much").unwrap();
    drop(reader);
    let mut output = Vec::new();
    let early = shim.within(Duration::from_secs(2)).wait("much");
    assert!(early.is_err(), "the process waits: {early:?}");
    stdout.reader().read_to_end(&mut output).unwrap();
    assert_eq!(output.len(), MUCH);
    assert_eq!(shim.wait("much").unwrap().exit_status, 6);
    let _ = shim.delete("much").unwrap();

    // And who is not waited for any more can be killed.
    let reader = stdout.reader();
    shim.exec_with("endless", &["yes"], ["", &streams[1], ""])
        .unwrap();
    shim.start("endless").unwrap();
    drop(reader);
    shim.kill("endless", 9).unwrap();
    assert_eq!(shim.wait("endless").unwrap().exit_status, 137);
    let _ = shim.delete("endless").unwrap();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p09_what_goes_in_comes_back_the_same() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "both-ways", &["sleep", "1000"]);
    let shim = Shim::of("both-ways");
    let (stdin, stdout) = (Fifo::new(), Fifo::new());
    let mut reader = stdout.reader();
    shim.exec_with("e", &["cat"], [&stdin.name(), &stdout.name(), ""])
        .unwrap();
    shim.start("e").unwrap();
    let sent = thread::spawn({
        let mut writer = stdin.writer();
        move || {
            let mut sum = Sha256::new();
            for part in 0..BOTH_WAYS / 65_536 {
                let part: Vec<u8> = (0..65_536_usize)
                    .map(|byte| (byte * 31 + part) as u8)
                    .collect();
                writer.write_all(&part).unwrap();
                sum.update(&part);
            }
            sum.finalize()
        }
    });
    let mut output = vec![0; BOTH_WAYS];
    reader.read_exact(&mut output).unwrap();
    assert_eq!(hex(&Sha256::digest(&output)), hex(&sent.join().unwrap()));
    close_stdin(&shim, "e");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    assert_eq!(shim.wait("e").unwrap().exit_status, 0);
    let _ = shim.delete("e").unwrap();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn p10_a_fifo_that_nobody_opens_fails_its_start_and_holds_up_nobody() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "unopened", &["sleep", "1000"]);
    let shim = Shim::of("unopened");
    let fifo = Fifo::new();
    shim.exec_with("e", &["true"], ["", &fifo.name(), ""])
        .unwrap();
    thread::scope(|scope| {
        let start = scope.spawn(|| shim.start("e"));
        let other = container.exec_as("other", &["echo", "beside"]);
        assert_eq!(other.finish().ok().text(), "beside");
        let refused = start.join().unwrap();
        assert_eq!(code(&refused), Some(Code::FAILED_PRECONDITION));
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains(&fifo.name()) && message.contains("nobody opened it"),
            "{message}"
        );
    });
    let _ = shim.delete("e").unwrap();
    assert_eq!(shim.pids().unwrap().processes.len(), 1);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_client_may_detach_from_the_input_and_come_back() {
    let _machine = CleanMachine::watch();
    let _container = Container::start(BUSYBOX, "detach", &["sleep", "1000"]);
    let shim = Shim::of("detach");
    let (stdin, stdout) = (Fifo::new(), Fifo::new());
    let mut reader = stdout.reader();
    shim.exec_with("e", &["cat"], [&stdin.name(), &stdout.name(), ""])
        .unwrap();
    shim.start("e").unwrap();
    for word in ["first", "again", "third"] {
        stdin.writer().write_all(word.as_bytes()).unwrap();
        let mut echo = [0; 5];
        reader.read_exact(&mut echo).unwrap();
        assert_eq!(echo, word.as_bytes());
    }
    stdin.writer().write_all(b"last").unwrap();
    close_stdin(&shim, "e");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last");
    assert_eq!(shim.wait("e").unwrap().exit_status, 0);
    let _ = shim.delete("e").unwrap();
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn output_goes_to_a_file_a_logging_program_or_nowhere() {
    let _machine = CleanMachine::watch();
    let directory = tempfile::tempdir().unwrap();
    let script = "echo to stdout; echo to stderr >&2; exit 4";

    let file = directory.path().join("logs/of/file.log");
    let ended = logged(&format!("--log-uri=file://{}", file.display()), script);
    assert_eq!(ended, 4);
    let mut lines: Vec<String> = text(&file).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["to stderr", "to stdout"]);

    let file = directory.path().join("program.log");
    let uri = format!(
        "binary://{}?path={}",
        logger(directory.path()),
        file.display()
    );
    assert_eq!(logged(&format!("--log-uri={uri}"), script), 4);
    // It writes its last line when both streams have ended.
    while !text(&file).ends_with("end\n") {
        thread::yield_now();
    }
    assert_eq!(
        text(&file),
        "default/logged path\nto stdout\nto stderr\nend\n"
    );

    assert_eq!(logged("--null-io", script), 4);
}

/// A logging program by containerd's contract: standard output on descriptor 3, standard error on
/// 4, ready when it closes 5.
fn logger(directory: &Path) -> String {
    let path = directory.join("logger");
    let script = "#!/bin/sh\nexec >\"$2\" 5>&-\necho \"$CONTAINER_NAMESPACE/$CONTAINER_ID $1\"\n\
                  cat <&3\ncat <&4\necho end\n";
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Runs `script` in a container whose output goes where `option` says; its exit code.
fn logged(option: &str, script: &str) -> i32 {
    let container = Container::start_with(&[option], BUSYBOX, "logged", &["sh", "-c", script]);
    let _ = Shim::of("logged").wait("").unwrap();
    container.exit_code_at_delete()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn close_stdin(shim: &Shim, exec: &str) {
    let state = shim.state(exec).unwrap();
    let mut request = api::CloseIORequest::new();
    request.id = state.id;
    request.exec_id = exec.to_owned();
    request.stdin = true;
    shim.tasks().close_io(shim.context(), &request).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
