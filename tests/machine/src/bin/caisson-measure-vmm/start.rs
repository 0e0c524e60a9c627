//! From the execution of a VMM to its guest's hello, and what that costs the host.

use std::fs::{self, File};
use std::time::Duration;

use caisson_machine_tests::{Disk, HELLO_PORT, HostProcess, Samples, Tap};

use crate::caisson::Caisson;
use crate::contender::{Contender, Guest};
use crate::cpu_clock;
use crate::peers::Peers;
use crate::qemu::{AGENT_HELLO_PORT, Qemu};
use crate::table::{Table, median, min_and_median};
use crate::trace::Trace;

/// Memory of every guest.
const MEMORY_MIB: u32 = 128;
/// Caisson's own initial root file system.
const AGENT: &str = "/usr/local/share/caisson/initrd.img";

/// What was measured of one contender.
#[derive(Debug, Default)]
struct Results {
    to_init: Samples,
    to_hello: Samples,
    processor: Samples,
    exits: Samples,
    guest: Samples,
    own: Samples,
    threads: Samples,
}

/// Measures and prints, of the contenders with `name` in their names.
pub(crate) fn measure(rounds: usize, name: &str, caisson: &Caisson, qemu: &Qemu, guest: &Guest) {
    let disk = Disk::new("measured", 64);
    let tap = Tap::new(1, "192.168.127.1/24");
    let agent = Guest::of(File::open(AGENT).expect("the guest image is installed"));
    let peers = Peers::staged();
    let pod = |guest| caisson.pod(guest, MEMORY_MIB, Some(&disk), &tap);
    let mut contenders = vec![
        contender("caisson-vmm, a pod's devices", Some(HELLO_PORT), || {
            pod(guest)
        }),
        contender("caisson-vmm, vsock", Some(HELLO_PORT), || {
            Caisson::least(guest, MEMORY_MIB)
        }),
        contender("QEMU microvm, no device", None, || {
            qemu.microvm(guest, MEMORY_MIB)
        }),
        contender("QEMU q35, vsock and rng", Some(HELLO_PORT), || {
            qemu.q35(guest, MEMORY_MIB)
        }),
    ];
    contenders.extend(peers.contenders(guest, MEMORY_MIB));
    contenders.push(contender(
        "caisson-vmm, a pod's devices, agent",
        Some(AGENT_HELLO_PORT),
        || pod(&agent),
    ));
    // A pod gets its disks with its containers.
    contenders.push(contender(
        "caisson-vmm, a pod's devices at boot, agent",
        Some(AGENT_HELLO_PORT),
        || caisson.pod(&agent, MEMORY_MIB, None, &tap),
    ));
    contenders.push(contender(
        "QEMU q35, vsock and rng, agent",
        Some(AGENT_HELLO_PORT),
        || qemu.q35(&agent, MEMORY_MIB),
    ));

    contenders.retain(|contender| contender.name.contains(name));
    let mut results: Vec<Results> = contenders.iter().map(|_| Results::default()).collect();
    let mut trace = Trace::begin();
    for round in 0..=rounds {
        for (contender, results) in contenders.iter().zip(&mut results) {
            eprintln!("start, round {round} of {rounds}: {}", contender.name);
            run(round, contender, &mut trace, results);
        }
    }
    print(rounds, qemu, &contenders, &results);
}

fn contender<'a>(
    name: &str,
    hello: Option<u32>,
    start: impl Fn() -> Box<dyn crate::contender::Machine + 'a> + 'a,
) -> Contender<'a> {
    Contender {
        name: name.to_owned(),
        start: Box::new(start),
        hello,
    }
}

/// Starts a contender once and adds what it took.
fn run(round: usize, contender: &Contender<'_>, trace: &mut Trace, results: &mut Results) {
    let machine = (contender.start)();
    let hello = contender.hello.map(|port| {
        let connection = machine.accept(port);
        (now(), connection)
    });
    let start = if hello.is_none() {
        Some(trace.start_of(machine.pid()))
    } else {
        None
    };
    // Before anything is asked that takes time.
    let processor = cpu_clock::used_by(machine.pid()).expect("the VMM runs");
    let exits = exits(machine.pid());
    let start = start.unwrap_or_else(|| trace.start_of(machine.pid()));
    let process = HostProcess::new(machine.pid());
    let memory = process.memory_beside(u64::from(MEMORY_MIB) << 20);

    results.to_init.add(round, ms(start.init - start.executed));
    if let Some((at, _)) = &hello {
        results.to_hello.add(round, ms(*at - start.executed));
    }
    results.processor.add(round, ms(processor));
    results.exits.add(round, exits as f64);
    results.guest.add(round, memory.guest_rss as f64 / 1024.0);
    results.own.add(round, memory.own_pss as f64);
    results.threads.add(round, process.own_threads() as f64);
}

fn print(rounds: usize, qemu: &Qemu, contenders: &[Contender<'_>], results: &[Results]) {
    println!(
        "\nFrom the execution of the VMM to its guest's first program (a byte to port 0x3f0, seen by \
         the tracepoint kvm_pio) and to its first connection to the host; one vCPU, {MEMORY_MIB} \
         MiB, the same kernel and initrd; {rounds} rounds by turns, min / median. What follows is \
         read at the hello, without one at the mark. {}.",
        qemu.version()
    );
    let table = Table::new(&[
        "",
        "to init, ms",
        "to hello, ms",
        "processor, ms",
        "exits",
        "guest memory, MiB",
        "own PSS, KiB",
        "threads beside vCPUs",
    ]);
    for (contender, results) in contenders.iter().zip(results) {
        results.to_init.count("to init", &contender.name);
        results.to_hello.count("to hello", &contender.name);
        let threads = results.threads.median().map(|all| format!("{}", all - 1.0));
        table.row([
            contender.name.clone(),
            min_and_median(&results.to_init, 1),
            min_and_median(&results.to_hello, 1),
            median(&results.processor, 1),
            median(&results.exits, 0),
            median(&results.guest, 1),
            median(&results.own, 0),
            threads.unwrap_or_default(),
        ]);
    }
    let aim = [
        "aim, with a pod's devices",
        "40",
        "55",
        "",
        "",
        "",
        "3072",
        "2",
    ];
    table.row(aim.map(str::to_owned));
    println!(
        "\nWith a clock that counts instructions, a ms is a million of them; the aims are such."
    );
}

/// Exits of all vCPUs of the VM that this process has made, those that KVM handled itself too.
pub(crate) fn exits(pid: u32) -> u64 {
    let folders = fs::read_dir("/sys/kernel/debug/kvm").expect("debugfs is mounted");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    // KVM calls the folder after the thread that has made the VM.
    let prefixes: Vec<_> = threads
        .flatten()
        .map(|thread| format!("{}-", thread.file_name().to_string_lossy()))
        .collect();
    let folder = folders
        .flatten()
        .find(|folder| {
            let name = folder.file_name();
            let name = name.to_string_lossy();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        })
        .expect("the process has a VM");
    let text = fs::read_to_string(folder.path().join("exits")).expect("KVM counts exits");
    text.trim().parse().expect("a number")
}

fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
