//! Disks, networks and vsock.

use std::fs::File;
use std::io::{self, Read};
use std::process::Command;

use caisson_machine_tests::{Disk, Pattern, Tap};

use crate::caisson::Caisson;
use crate::contender::{Contender, Guest};
use crate::qemu::{Engine, Qemu, run};
use crate::samples::Samples;
use crate::table::Table;
use crate::work::ALL;

/// Port of the host for streams of the guest.
pub(crate) const STREAM_PORT: u32 = 7001;

const MEMORY_MIB: u32 = 256;
const DISK_MIB: u64 = 128;

/// The host's addresses on the taps, and QEMU's tap, which it opens by its name.
const OUR_HOST: [u8; 4] = [192, 168, 127, 1];
const QEMU_HOST: [u8; 4] = [192, 168, 128, 1];
const QEMU_TAP: &str = "measured";

/// Measures and prints.
pub(crate) fn measure(rounds: usize, caisson: &Caisson, qemu: &Qemu, guest: &Guest) {
    let disk = filled_disk();
    let tap = Tap::new(1, &format!("{}/24", dotted(OUR_HOST)));
    make_tap(QEMU_TAP, QEMU_HOST);
    let of_qemu = |name: &str, engine| {
        let disk = &disk;
        let start = move || qemu.busy(guest, MEMORY_MIB, engine, disk, QEMU_TAP);
        (contender(name, start), QEMU_HOST)
    };
    let contenders = [
        (
            contender("caisson-vmm", || {
                caisson.busy(guest, MEMORY_MIB, &disk, &tap)
            }),
            OUR_HOST,
        ),
        of_qemu("QEMU", Engine::Default),
        of_qemu("QEMU, tuned", Engine::Tuned),
    ];
    let mut results = vec![vec![Samples::default(); contenders.len()]; ALL.len()];
    for round in 0..=rounds {
        for (column, (contender, host)) in contenders.iter().enumerate() {
            eprintln!("transfer, round {round} of {rounds}: {}", contender.name);
            let machine = (contender.start)();
            drop(machine.accept(contender.hello.unwrap_or_default()));
            for (work, row) in ALL.iter().zip(&mut results) {
                if let Some(rate) = work.rate(machine.as_ref(), *host)
                    && let Some(samples) = row.get_mut(column)
                {
                    samples.add(round, rate);
                }
            }
        }
    }
    print(rounds, &results);
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

fn print(rounds: usize, results: &[Vec<Samples>]) {
    println!(
        "\nOne vCPU, {MEMORY_MIB} MiB; {rounds} rounds by turns, median / best. The disk is a file in the \
         host's page cache, O_DIRECT in the guest. QEMU is the machine q35, because this kernel has \
         no virtio-mmio; as it comes (aio=threads, packets in its main loop) and tuned (io_uring in \
         an iothread, vhost-net). Its vsock is vhost-vsock."
    );
    let table = Table::new(&[
        "",
        "caisson-vmm",
        "QEMU",
        "QEMU, tuned",
        "to QEMU (aim: 1)",
        "to QEMU, tuned",
    ]);
    for (work, row) in ALL.iter().zip(results) {
        let cells = row
            .iter()
            .map(|samples| match (samples.median(), samples.max()) {
                (Some(median), Some(best)) => format!("{median:.0} / {best:.0}"),
                _ => "not there".to_owned(),
            });
        let medians: Vec<_> = row.iter().map(Samples::median).collect();
        let ours = medians.first().copied().flatten();
        let ratios = medians.iter().skip(1).map(|theirs| match (ours, theirs) {
            (Some(ours), Some(theirs)) => format!("{:.2}", ours / theirs),
            _ => "–".to_owned(),
        });
        table.row([work.name()].into_iter().chain(cells).chain(ratios));
    }
}
