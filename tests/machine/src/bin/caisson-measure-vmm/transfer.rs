//! Disks, networks and vsock.

use std::fs::File;
use std::io::{self, Read};
use std::process::Command;

use caisson_machine_tests::{Disk, Pattern, Samples, Tap};

use crate::caisson::Caisson;
use crate::contender::{Contender, Guest};
use crate::peers::other_caisson;
use crate::qemu::{Engine, Qemu, run};
use crate::table::Table;
use crate::work::{ALL, Clock, Cost, Work};

/// Port of the host for streams of the guest.
pub(crate) const STREAM_PORT: u32 = 7001;

const MEMORY_MIB: u32 = 256;
const DISK_MIB: u64 = 128;

/// The host's addresses on the taps, and QEMU's tap, which it opens by its name.
const OUR_HOST: [u8; 4] = [192, 168, 127, 1];
const QEMU_HOST: [u8; 4] = [192, 168, 128, 1];
const QEMU_TAP: &str = "measured";

/// Measures the work in whose name `rows` occurs, and prints.
pub(crate) fn measure(
    rounds: usize,
    clock: Clock,
    rows: &str,
    caisson: &Caisson,
    qemu: &Qemu,
    guest: &Guest,
) {
    let disk = filled_disk();
    let tap = Tap::new(1, &format!("{}/24", dotted(OUR_HOST)));
    make_tap(QEMU_TAP, QEMU_HOST);
    let of_qemu = |name: &str, engine| {
        let disk = &disk;
        let start = move || qemu.busy(guest, MEMORY_MIB, engine, disk, QEMU_TAP);
        (contender(name, start), QEMU_HOST)
    };
    let other = other_caisson().map(|vmm| caisson.version(vmm));
    let mut contenders = vec![
        (
            contender("caisson-vmm", || {
                caisson.busy(guest, MEMORY_MIB, &disk, &tap)
            }),
            OUR_HOST,
        ),
        of_qemu("QEMU", Engine::Default),
        of_qemu("QEMU, tuned", Engine::Tuned),
    ];
    if let Some(other) = &other {
        let start = || other.busy(guest, MEMORY_MIB, &disk, &tap);
        contenders.push((contender("caisson-vmm, the other", start), OUR_HOST));
    }
    let works: Vec<_> = ALL
        .into_iter()
        .filter(|work| work.name(clock).contains(rows))
        .collect();
    let mut results = vec![vec![Moved::default(); contenders.len()]; works.len()];
    for round in 0..=rounds {
        for (column, (contender, host)) in contenders.iter().enumerate() {
            eprintln!("transfer, round {round} of {rounds}: {}", contender.name);
            let machine = (contender.start)();
            drop(machine.accept(contender.hello.unwrap_or_default()));
            for (work, row) in works.iter().zip(&mut results) {
                if let Some(cost) = work.cost(machine.as_ref(), *host, clock)
                    && let Some(moved) = row.get_mut(column)
                {
                    moved.add(round, cost);
                }
            }
        }
    }
    let names: Vec<_> = contenders
        .iter()
        .map(|(contender, _)| contender.name.as_str())
        .collect();
    print(rounds, clock, &names, &works, &results);
}

/// What one contender has done of one work.
#[derive(Debug, Clone, Default)]
struct Moved {
    speed: Samples,
    exits: Samples,
    processor: Samples,
}

impl Moved {
    fn add(&mut self, round: usize, cost: Cost) {
        self.speed.add(round, cost.speed);
        self.exits.add(round, cost.exits);
        self.processor.add(round, cost.processor);
    }
}

fn contender<'a>(
    name: &str,
    start: impl Fn() -> Box<dyn crate::contender::Machine + 'a> + 'a,
) -> Contender<'a> {
    Contender {
        name: name.to_owned(),
        start: Box::new(start),
        hello: Some(caisson_machine_tests::HELLO_PORT),
    }
}

/// A disk without holes, and all of it in the host's page cache.
fn filled_disk() -> Disk {
    let disk = Disk::new("measured", DISK_MIB);
    let image = File::options().write(true).open(disk.path());
    let mut image = image.expect("the image is there");
    let filled = io::copy(&mut Pattern::new(1).take(DISK_MIB << 20), &mut image);
    filled
        .and_then(|_| image.sync_all())
        .expect("there is room for the disk");
    disk
}

fn make_tap(name: &str, address: [u8; 4]) {
    let address = format!("{}/24", dotted(address));
    run(ip().args(["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"]));
    run(ip().args(["addr", "add", &address, "dev", name]));
    run(ip().args(["link", "set", name, "up"]));
}

fn ip() -> Command {
    Command::new("ip")
}

fn dotted(address: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}

fn print(rounds: usize, clock: Clock, names: &[&str], works: &[Work], results: &[Vec<Moved>]) {
    println!(
        "\nOne vCPU, {MEMORY_MIB} MiB; {rounds} rounds by turns, median / best. The disk is a file in the \
         host's page cache, O_DIRECT in the guest. QEMU is the machine q35, because this kernel has \
         no virtio-mmio; as it comes (aio=threads, packets in its main loop) and tuned (io_uring in \
         an iothread, vhost-net). Its vsock is vhost-vsock. A ratio above 1 is in our favour."
    );
    let others: Vec<_> = names.iter().skip(1).collect();
    let ratios: Vec<_> = others.iter().map(|name| format!("to {name}")).collect();
    let columns = names
        .iter()
        .copied()
        .chain(ratios.iter().map(String::as_str));
    let table = Table::new(&[""].into_iter().chain(columns).collect::<Vec<_>>());
    for (work, row) in works.iter().zip(results) {
        let cells = row.iter().map(|moved| clock.cell(&moved.speed));
        let medians: Vec<_> = row.iter().map(|moved| moved.speed.median()).collect();
        let ours = medians.first().copied().flatten();
        let ratios = medians.iter().skip(1).map(|theirs| match (ours, theirs) {
            (Some(ours), Some(theirs)) => format!("{:.2}", clock.ratio(ours, *theirs)),
            _ => "–".to_owned(),
        });
        table.row([work.name(clock)].into_iter().chain(cells).chain(ratios));
    }
    println!(
        "\nFor each MiB or operation: exits of the vCPU / processor time of the VMM with its guest, in µs"
    );
    let table = Table::new(&[""].iter().chain(names).copied().collect::<Vec<_>>());
    for (work, row) in works.iter().zip(results) {
        let cells = row.iter().map(|moved| {
            let (exits, processor) = (moved.exits.median(), moved.processor.median());
            format!(
                "{:.1} / {:.0}",
                exits.unwrap_or_default(),
                processor.unwrap_or_default()
            )
        });
        table.row([work.name(clock)].into_iter().chain(cells));
    }
}
