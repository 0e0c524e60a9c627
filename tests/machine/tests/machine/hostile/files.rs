//! Requests of FUSE and rings that break a file server, which reads both itself.
//!
//! A file server that is told nonsense ends with a sentence, and its device stops; so each of these
//! has one of its own, beside one that serves on.

use caisson_machine_tests::{Device, Step, TestMachine};

use super::attacker::Attacker;
use super::chains;
use super::driver::{BUFFERS, Driver};

const MEMORY_MIB: u32 = 256;
/// The queue of ordinary requests.
const REQUESTS: u16 = 1;
/// Where the answer's header is: its length, and the error.
const ANSWER: u32 = BUFFERS + 0x1_0000;

const ROOT: u64 = 1;
const INIT: u32 = 26;

/// A request: header (length, operation, number, node, owner) and arguments.
fn fuse(length: Option<u32>, operation: u32, node: u64, rest: &[u8]) -> Vec<u8> {
    let length = length.unwrap_or(40 + u32::try_from(rest.len()).unwrap());
    let mut bytes = Vec::new();
    bytes.extend(length.to_le_bytes());
    bytes.extend(operation.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(rest);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Version 7.38, and no feature.
fn init() -> Vec<u8> {
    fuse(
        None,
        INIT,
        0,
        &[words(&[7, 38, 0, 0]), vec![0; 48]].concat(),
    )
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_file_server_that_is_told_nonsense_answers_or_ends_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "content").unwrap();
    let served = Device::file_server("served", directory.path());
    let attacker = Attacker::boot(TestMachine::builder().device(served));
    requests(&attacker);
    rings(&attacker, directory.path());
    let content = std::fs::read_to_string(directory.path().join("file")).unwrap();
    assert_eq!(content, "content");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    attacker.finish();
}

/// What the one that goes on is asked.
fn requests(attacker: &Attacker) {
    let driver = attacker.driver("fs");
    let mut asked = Vec::new();
    // Names that lead out: LOOKUP, MKDIR, UNLINK, SYMLINK, RENAME, LINK.
    for name in [
        "..\0",
        "../../etc/passwd\0",
        "/etc/passwd\0",
        "a/b\0",
        ".\0",
        "\0",
    ] {
        let name = name.as_bytes();
        asked.push(fuse(None, 1, ROOT, name));
        asked.push(fuse(None, 9, ROOT, &[&words(&[0o755, 0]), name].concat()));
        asked.push(fuse(None, 10, ROOT, name));
        asked.push(fuse(None, 6, ROOT, &[name, b"/etc/passwd\0"].concat()));
        asked.push(fuse(
            None,
            12,
            ROOT,
            &[&1_u64.to_le_bytes(), name, b"x\0"].concat(),
        ));
        asked.push(fuse(None, 13, ROOT, &[&1_u64.to_le_bytes(), name].concat()));
    }
    // 4 GiB to read, to list, of an attribute.
    let all = [0, 0, 0, 0, u32::MAX, 0, 0, 0, 0, 0];
    for operation in [15, 28, 44] {
        asked.push(fuse(None, operation, ROOT, &words(&all)));
    }
    asked.push(fuse(
        None,
        22,
        ROOT,
        &[&words(&[u32::MAX, 0])[..], b"user.x\0"].concat(),
    ));
    asked.push(fuse(None, 23, ROOT, &words(&[u32::MAX, 0])));
    let mut steps = vec![driver.seize()];
    steps.extend(driver.start());
    let [_, available, _] = Driver::places(REQUESTS);
    steps.extend(driver.request(REQUESTS, &init(), &[80]));
    steps.push(Driver::until_served(REQUESTS));
    for request in &asked {
        steps.push(Step::Put {
            at: ANSWER,
            bytes: vec![0; 16],
        });
        let again = driver.request(REQUESTS, request, &[4096, 4096]);
        // But for the index, which goes on.
        let offered = |step: &Step| matches!(step, Step::Put { at, .. } if *at == available);
        steps.extend(
            again
                .into_iter()
                .filter(|step| !offered(step))
                .flat_map(|step| match step {
                    Step::Write { .. } => vec![
                        Step::Add {
                            at: available + 2,
                            width: 2,
                            by: 1,
                        },
                        step,
                    ],
                    step => vec![step],
                }),
        );
        steps.push(Driver::until_served(REQUESTS));
        steps.push(Step::Get {
            at: ANSWER + 4,
            width: 4,
        });
    }
    steps.push(driver.release());
    let answers = attacker.play(steps);
    assert_eq!(answers.len(), asked.len());
    let refused = answers.iter().filter(|error| **error != 0).count();
    println!("{refused} of {} requests are refused", answers.len());
    assert!(refused > asked.len() / 2, "{answers:x?}");
    assert_eq!(attacker.faults(driver.slot), 0);
}

/// Chains and requests that have no answer: the server ends, and its device says so.
fn rings(attacker: &Attacker, directory: &std::path::Path) {
    let first = attacker.driver("fs");
    let malformed = chains::all(&first, u64::from(MEMORY_MIB) << 20);
    // Of each sort one; more cost as many processes.
    let plays = malformed.iter().step_by(4).map(|chain| {
        let steps = |driver: &Driver| chain.steps(driver, REQUESTS);
        (
            chain.refusal,
            Box::new(steps) as Box<dyn Fn(&Driver) -> Vec<Step>>,
        )
    });
    // A header that says another length than there is, and one that is cut off.
    let requests = [
        fuse(Some(u32::MAX), 3, ROOT, &[0; 16]),
        fuse(Some(8), 3, ROOT, &[]),
    ];
    let requests = requests.into_iter().map(|request| {
        let steps = move |driver: &Driver| {
            let mut steps = driver.start();
            steps.extend(driver.request(REQUESTS, &request[..36], &[4096]));
            steps.push(driver.until_it_stops());
            steps
        };
        (
            "a header",
            Box::new(steps) as Box<dyn Fn(&Driver) -> Vec<Step>>,
        )
    });
    for (what, steps) in plays.chain(requests) {
        let slot = attacker
            .machine
            .plug(Device::file_server("nonsense", directory));
        attacker.machine.rescan();
        let driver = Driver::new(slot, first.queues, first.address(0));
        let mut play = vec![driver.seize()];
        play.extend(steps(&driver));
        attacker.play(play);
        println!("{what}: {}", attacker.fault("fs"));
        let status = attacker.machine.file_server_ends(1);
        assert_eq!(status.code(), Some(1), "{what}: {status}");
        attacker.machine.remove(slot);
        attacker.machine.unplug(slot);
    }
}
