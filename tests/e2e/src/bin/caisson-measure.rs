//! The benchmark: Caisson beside runc, in one run, inside the testbed (`cargo measure`).
//!
//! Times are those of the client, from starting `ctr` to its end, the contenders taking turns.
//! Memory is the proportional set size of an idle container's processes on the host.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use caisson_e2e::{BUSYBOX, Container, Ctr, RUNTIME, Shim, children_of, parent_of, signal};
use rustix::process::Signal;

/// Calls that are timed of each kind while the guest stands still.
const CALLS: usize = 1000;
/// What State and Pids may take at the 99th percentile then: containerd asks every pod for them
/// when it comes back, and its liveness probes do not wait for a guest.
const AIM: Duration = Duration::from_millis(2);

const RUNC: &str = "io.containerd.runc.v2";

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(10, |n| n.parse().expect("a number of rounds"));
    start_to_end(rounds);
    let container = Container::start(BUSYBOX, "measured", &["sh", "-c", "echo; sleep 1000"]);
    // An exec after which the container is certainly idle, and its first output delivered.
    let _ = container.exec(&["true"]).finish().ok();
    phases();
    exec(rounds, &container);
    memory(&container);
    frozen(&container);
}

/// `ctr run --rm … true`, the contenders taking turns.
fn start_to_end(rounds: usize) {
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    // The first round warms the caches and is not counted.
    for round in 0..=rounds {
        for (name, runtime) in [("runc", RUNC), ("caisson", RUNTIME)] {
            let words = [
                "run",
                "--rm",
                "--runtime",
                runtime,
                BUSYBOX,
                "timed",
                "true",
            ];
            let took = time(|| Ctr::new(&words));
            if round > 0 {
                times.entry(name).or_default().push(took);
            }
        }
    }
    println!("\nctr run --rm {BUSYBOX} true, {rounds} rounds");
    table(&mut times);
}

/// `ctr task exec … true` in a running container, the contenders taking turns.
fn exec(rounds: usize, ours: &Container) {
    let words = [
        "run",
        "--detach",
        "--runtime",
        RUNC,
        BUSYBOX,
        "beside",
        "sleep",
        "1000",
    ];
    let _ = Ctr::new(&words).finish().ok();
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..=rounds {
        let exec = format!("e{round}");
        let runc = time(|| Ctr::new(&["task", "exec", "--exec-id", &exec, "beside", "true"]));
        let caisson = time(|| ours.exec_as(&exec, &["true"]));
        if round > 0 {
            times.entry("runc").or_default().push(runc);
            times.entry("caisson").or_default().push(caisson);
        }
    }
    let _ = Ctr::new(&["task", "rm", "--force", "beside"]).finish();
    let _ = Ctr::new(&["container", "rm", "beside"]).finish();
    println!("\nctr task exec … true, {rounds} rounds");
    table(&mut times);
}

fn time(command: impl FnOnce() -> Ctr) -> Duration {
    let command = command();
    let begun = Instant::now();
    let _ = command.finish().ok();
    begun.elapsed()
}

fn table(times: &mut BTreeMap<&str, Vec<Duration>>) {
    println!(
        "{:<10} {:>10} {:>10} {:>10} {:>10}",
        "", "min ms", "median ms", "mean ms", "max ms"
    );
    let mut means = BTreeMap::new();
    for (name, times) in times {
        times.sort();
        let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(1).max(1);
        means.insert(*name, mean);
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        println!(
            "{name:<10} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
            ms(at(0)),
            ms(at(times.len() / 2)),
            ms(mean),
            ms(at(times.len().saturating_sub(1)))
        );
    }
    if let (Some(runc), Some(caisson)) = (means.get("runc"), means.get("caisson")) {
        println!(
            "caisson takes {:.2} times runc's mean",
            ms(*caisson) / ms(*runc)
        );
    }
}

/// State and Pids over the shim's socket, while the guest runs and while it stands still.
fn frozen(container: &Container) {
    let shim = Shim::of("measured");
    let vmm = container.vmm_pid();
    println!("\nState and Pids over the shim's socket, {CALLS} calls each, in ms");
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>10}",
        "", "median", "99 %", "max", "aim (99 %)"
    );
    let times = |call: &dyn Fn()| {
        let mut times: Vec<Duration> = (0..CALLS)
            .map(|_| {
                let begun = Instant::now();
                call();
                begun.elapsed()
            })
            .collect();
        times.sort();
        [CALLS / 2, CALLS * 99 / 100, CALLS - 1]
            .map(|index| times.get(index).copied().unwrap_or_default())
    };
    for (guest, before) in [("running", Signal::CONT), ("frozen", Signal::STOP)] {
        signal(vmm, before);
        let calls: [(&str, &dyn Fn()); 2] = [
            ("State", &|| {
                let _ = shim.state("").expect("State is answered");
            }),
            ("Pids", &|| {
                let _ = shim.pids().expect("Pids is answered");
            }),
        ];
        for (name, call) in calls {
            let [median, most, max] = times(call).map(ms);
            println!(
                "{:<24} {median:>10.2} {most:>10.2} {max:>10.2} {:>10.2}",
                format!("{name}, guest {guest}"),
                ms(AIM)
            );
        }
        signal(vmm, Signal::CONT);
    }
}

/// The phases of our start, as the shim noted them.
fn phases() {
    let notes = fs::read_to_string("/run/caisson/default/measured/phases")
        .expect("the shim notes its phases");
    println!("\nphases of one start (ms since the shim's start)");
    print!("{notes}");
}

/// Memory of the idle container's processes on the host.
fn memory(container: &Container) {
    let vmm = container.vmm_pid();
    let shim = parent_of(vmm);
    println!("\nmemory of one idle container, proportional set size");
    println!("{:<28} {:>10}", "", "KiB");
    let (mut guest, own) = pss(vmm);
    println!("{:<28} {own:>10}", "caisson-vmm without guest");
    println!("{:<28} {:>10}", "shim", pss(shim).1);
    for child in children_of(shim).into_iter().filter(|child| *child != vmm) {
        let (shared, own) = pss(child);
        guest += shared;
        println!("{:<28} {own:>10}", comm(child));
    }
    println!("{:<28} {guest:>10}", "guest memory");
}

/// Proportional set size in KiB of a process: guest memory, everything else.
fn pss(pid: i32) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut guest, mut own, mut in_guest) = (0, 0, false);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Pss:") {
            let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            *(if in_guest { &mut guest } else { &mut own }) += size;
        } else if line
            .split_once(' ')
            .is_some_and(|(range, _)| range.contains('-'))
        {
            // Only the guest's memory is mapped shared and writable.
            in_guest = line.contains(" rw-s ");
        }
    }
    (guest, own)
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
