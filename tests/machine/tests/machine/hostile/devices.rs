//! Every device of a machine but the file server, one after another.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::thread;

use caisson_machine_tests::{Address, Disk, Request, Tap, TestMachine, eventually};

use super::attacker::Attacker;
use super::{chains, queues, requests};

const MIB: u64 = 1 << 20;
/// Memory of the machine.
const MEMORY_MIB: u32 = 256;

const HOST: &str = "192.168.125.1";
const GUEST: [u8; 4] = [192, 168, 125, 2];

/// Devices, and the queue of each that is read when it is notified.
const QUEUES: [(&str, u16); 7] = [
    ("rng", 0),
    ("balloon", 0),
    ("memory", 0),
    ("console", 1),
    ("block", 0),
    ("net", 1),
    ("vsock", 1),
];

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_device_that_is_driven_wrongly_stops_alone_and_a_reset_mends_it() {
    let disk = Disk::new("hostile", 4);
    let tap = Tap::new(1, &format!("{HOST}/24"));
    let builder = TestMachine::builder()
        .memory_mib(MEMORY_MIB)
        .hotplug_memory_mib(128)
        .parameters("memhp_default_state=online_movable")
        .virtio_console()
        .device(disk.device())
        .device(tap.device());
    let mut attacker = Attacker::boot(builder);
    all_work(&attacker.machine, 1);
    attacker.begin();
    let memory = u64::from(MEMORY_MIB) * MIB;

    let rng = attacker.driver("rng");
    queues::that_cannot_be(&attacker, &rng, "rng", memory);
    for (name, queue) in QUEUES {
        chains_of(&attacker, name, queue, memory);
        if name != "vsock" {
            queues::with_a_status_that_cannot_be(&attacker, &attacker.driver(name));
        }
    }
    all_work(&attacker.machine, 2);

    requests::of_random_numbers(&attacker, &rng);
    requests::of_the_console(&attacker, &attacker.driver("console"));
    requests::of_the_balloon(&attacker, &attacker.driver("balloon"), memory);
    requests::of_hotplug_memory(&attacker, &attacker.driver("memory"));
    requests::of_the_network(&attacker, &attacker.driver("net"));
    attacker.machine.write_pattern("/dev/vda", 3, MIB);
    requests::of_a_disk(&attacker, &attacker.driver("block"));
    disk.check_pattern(3, MIB);
    all_work(&attacker.machine, 4);
    attacker.finish();
}

/// Every malformed chain stops the device; of the first, the host has the reason word by word.
fn chains_of(attacker: &Attacker, name: &str, queue: u16, memory: u64) {
    let driver = attacker.driver(name);
    let before = attacker.faults(driver.slot);
    let malformed = chains::all(&driver, memory);
    let mut steps = vec![driver.seize()];
    for chain in &malformed {
        steps.extend(chain.steps(&driver, queue));
    }
    steps.push(driver.release());
    if name == "vsock" {
        attacker.play_unheard(steps);
    } else {
        attacker.play(steps);
    }
    if name == "rng" {
        for chain in &malformed {
            let refusal = attacker.fault(name);
            assert!(refusal.contains(chain.refusal), "{refusal}");
        }
    }
    let counted = attacker.faults(driver.slot) - before;
    assert_eq!(counted, malformed.len() as u64, "each is counted");
}

/// Uses each device as a guest should.
#[track_caller]
fn all_work(machine: &TestMachine, round: u64) {
    machine.write_pattern("/dev/vda", round, MIB);
    machine.check_pattern("/dev/vda", round, MIB);
    machine.echo(round, 100_000);
    let line = format!("round {round} of the console");
    machine.write_file("/dev/hvc0", &line);
    eventually("the console says so", || machine.console().contains(&line));
    for mib in [8, 0] {
        machine.set_balloon(mib);
        eventually("the balloon holds that", || {
            machine.metrics().memory.balloon_mib == mib
        });
    }
    for mib in [128, 0] {
        machine.set_hotplug_memory(mib);
        eventually("the memory is plugged", || {
            machine.metrics().memory.plugged_mib == mib
        });
    }
    let metrics = machine.metrics();
    let served = |device: &&caisson_control::DeviceStatistics| device.requests > 0;
    assert!(
        metrics.devices.iter().filter(served).count() >= QUEUES.len() - 1,
        "{metrics:?}"
    );
    tcp(machine, round);
}

fn tcp(machine: &TestMachine, seed: u64) {
    let (interface, prefix) = ("eth0".to_owned(), 24);
    let address = GUEST;
    let request = Request::SetAddress {
        interface,
        address,
        prefix,
    };
    let _ = machine.answer(&request).ok();
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    thread::scope(|scope| {
        scope.spawn(|| machine.dial(address, seed, &[100_000]));
        let (connection, _) = listener.accept().unwrap();
        io::copy(&mut &connection, &mut &connection).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
    });
}
