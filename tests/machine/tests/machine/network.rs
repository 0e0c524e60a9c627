//! The network interface.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::thread;

use caisson_machine_tests::{Address, Tap, TestMachine, random_sizes};

const HOST: &str = "192.168.127.1";
const GUEST: &str = "192.168.127.2";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_goes_through_a_tap_arrives_unchanged() {
    tcp_both_ways(1);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_goes_through_several_queues_arrives_unchanged() {
    tcp_both_ways(2);
}

fn tcp_both_ways(queue_pairs: u8) {
    let tap = Tap::new(queue_pairs, &format!("{HOST}/24"));
    let machine = TestMachine::builder()
        .vcpus(queue_pairs)
        .device(tap.device())
        .boot();
    machine.shell(&format!(
        "ip addr add {GUEST}/24 dev eth0; ip link set eth0 up"
    ));

    let pinged = machine.shell(&format!("busybox ping -c 3 {HOST}"));
    assert!(pinged.contains(" 0% packet loss"), "{pinged}");
    let pinged = Command::new("busybox")
        .args(["ping", "-c", "3", GUEST])
        .output();
    let pinged = String::from_utf8_lossy(&pinged.unwrap().stdout).into_owned();
    assert!(pinged.contains(" 0% packet loss"), "{pinged}");

    // Large sizes, so that segments are merged and checksums left to the other side.
    let mut sizes = random_sizes(41, 8, 1 << 20);
    sizes.push(16 << 20);
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    thread::scope(|scope| {
        scope.spawn(|| machine.dial(address, 42, &sizes));
        for _ in &sizes {
            let (connection, _) = listener.accept().unwrap();
            scope.spawn(move || {
                io::copy(&mut &connection, &mut &connection).unwrap();
                connection.shutdown(Shutdown::Write).unwrap();
            });
        }
    });
    // Wrong checksums would have been repaired by sending again.
    let host = std::fs::read_to_string("/proc/net/snmp").unwrap();
    for snmp in [host, machine.read_file("/proc/net/snmp")] {
        assert_eq!(wrong_checksums(&snmp), Some(0), "{snmp}");
    }
}

/// `InCsumErrors` of TCP: a line of names, then one of numbers.
fn wrong_checksums(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut columns = names.split(' ').zip(numbers.split(' '));
    let (_, number) = columns.find(|(name, _)| *name == "InCsumErrors")?;
    number.parse().ok()
}
