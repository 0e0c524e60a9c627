//! How long it takes until memory that a guest has freed is the host's again.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use caisson_e2e::{BUSYBOX, Container};

use crate::bench;
use crate::contender::CAISSON;
use crate::table::{Aim, Table, ms};

pub(crate) const ROW: &str = "512 MiB freed, until they are the host's";
const AIM: Duration = Duration::from_secs(5);
/// A machine for it.
const LIMIT: &str = "1073741824";
/// What of it may stay: the kernel keeps some free pages for itself, and has grown its own tables.
const STAYS: u64 = 16 << 20;
const FREED: u64 = 512 << 20;
/// Longer than that, and something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has a guest use and free it, in as many rounds as count and one before.
pub(crate) fn measure(rounds: usize, table: &mut Table) {
    let programs = std::env::current_exe().expect("a program knows its own file");
    let programs = programs.with_file_name("");
    let mount = format!(
        "type=bind,src={},dst=/measured,options=rbind:ro",
        programs.display()
    );
    let options = ["--memory-limit", LIMIT, "--mount", &mount];
    let container = Container::start_with(&options, BUSYBOX, "returned", &["sleep", "100000"]);
    let vmm = container.vmm_pid();
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}: {ROW}");
        let before = guest_memory(vmm);
        let mut command = Command::new("ctr");
        command.args(["task", "exec", "--exec-id", "memory", "returned"]);
        command.arg(format!("/measured/{}", bench::PROGRAM));
        command.args(["", "", "memory"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut exec = command.spawn().expect("ctr is installed");
        let mut answer = exec.stdin.take().expect("it is a pipe");
        let said = exec.stdout.take().expect("it is a pipe");
        let mut said = BufReader::new(said).lines();
        let mut hears = |word| {
            let line = said.next().map(|line| line.expect("it is a line"));
            assert_eq!(line.as_deref(), Some(word));
        };
        hears("used");
        let used = guest_memory(vmm);
        assert!(
            used > before + FREED / 2,
            "the guest has not used it: {used}"
        );
        answer.write_all(b"go on\n").expect("it listens");
        hears("freed");
        let begun = Instant::now();
        while guest_memory(vmm) > before + STAYS && begun.elapsed() < PATIENCE {
            // There is no event to wait for.
            thread::sleep(Duration::from_millis(20));
        }
        table.note(round, ROW, CAISSON, begun.elapsed());
        let _ = exec.wait();
    }
    table.aim(ROW, Aim::Most(ms(AIM)));
    table.done(ROW);
}

/// Bytes of the file that is a guest's memory: the largest that its VMM has open.
fn guest_memory(vmm: i32) -> u64 {
    let open = fs::read_dir(format!("/proc/{vmm}/fd")).expect("the machine runs");
    let files = open
        .flatten()
        .filter_map(|entry| fs::metadata(entry.path()).ok());
    let largest = files
        .filter(fs::Metadata::is_file)
        .max_by_key(MetadataExt::size);
    largest.expect("a guest has memory").blocks() * 512
}
