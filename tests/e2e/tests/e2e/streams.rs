//! Standard input, output and error arrive whole.

use caisson_e2e::{BUSYBOX, CleanMachine, Container, Ctr};
use sha2::{Digest, Sha256};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn standard_input_comes_back_from_cat_and_ends() {
    let _machine = CleanMachine::watch();
    let text = "first line\nlast line without an end";
    let output = Ctr::run(BUSYBOX, "cat", &["cat"])
        .stdin(text.into())
        .finish()
        .ok();
    assert_eq!(output.stdout, text.as_bytes());
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_megabyte_of_standard_input_comes_back_unchanged() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "megabyte", &["sleep", "1000"]);
    let bytes: Vec<u8> = (0..1_048_576_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let output = container.exec(&["cat"]).stdin(bytes.clone()).finish().ok();
    assert_eq!(
        hex(&Sha256::digest(&output.stdout)),
        hex(&Sha256::digest(&bytes))
    );
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_quarter_gibibyte_of_output_arrives_unchanged() {
    const PART: usize = 4 << 20;
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "quarter", &["sleep", "1000"]);
    let make = "dd if=/dev/urandom of=/dev/shm/part bs=1M count=4; sha256sum /dev/shm/part";
    let made = container.exec(&["sh", "-c", make]).finish().ok().text();

    // One part many times: summing the whole would take longer than sending it in emulation.
    let send = "for n in $(seq 64); do cat /dev/shm/part; done";
    let output = container.exec(&["sh", "-c", send]).finish().ok();

    assert_eq!(output.stdout.len(), 64 * PART);
    let (first, rest) = output.stdout.split_at(PART);
    assert_eq!(
        made.split(' ').next(),
        Some(hex(&Sha256::digest(first)).as_str())
    );
    assert!(rest.chunks(PART).all(|part| part == first));
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn output_and_errors_are_kept_apart() {
    let _machine = CleanMachine::watch();
    let output = Ctr::run(BUSYBOX, "apart", &["sh", "-c", "echo out; echo err >&2"])
        .finish()
        .ok();
    assert_eq!(output.text(), "out");
    assert_eq!(output.stderr.trim(), "err");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_last_byte_of_a_process_of_one_millisecond_is_never_lost() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "last-byte", &["sleep", "1000"]);
    for run in 0..200 {
        let output = container
            .exec_as(&format!("e{run}"), &["echo", "-n", "x"])
            .finish();
        assert_eq!(
            (output.text().as_str(), output.code),
            ("x", 0),
            "run {run}: {}",
            output.stderr
        );
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_program_that_ends_at_once_has_its_output_delivered() {
    let _machine = CleanMachine::watch();
    for run in 0..3 {
        let output = Ctr::run(BUSYBOX, "at-once", &["echo", "whole line"])
            .finish()
            .ok();
        assert_eq!(output.stdout, b"whole line\n", "run {run}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
