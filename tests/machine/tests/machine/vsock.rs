//! Streams between host and guest.

use std::io;
use std::net::Shutdown;
use std::thread;

use caisson_control::RefusalKind;
use caisson_machine_tests::{
    Address, Comparison, GuestProcess, Pattern, Request, TestMachine, echo_on, random_sizes,
};

/// A port of the host, and the most bytes on one connection.
const PORT: u32 = 7000;
const MOST: u64 = 100_000;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn two_hundred_connections_of_the_host_and_two_hundred_of_the_guest_lose_nothing() {
    let machine = TestMachine::builder().vcpus(2).boot();

    let sizes = random_sizes(11, 200, MOST);
    let connections: Vec<_> = sizes
        .iter()
        .map(|_| machine.ask_guest(&Request::Echo))
        .collect();
    thread::scope(|scope| {
        for ((seed, connection), size) in (0..).zip(&connections).zip(&sizes) {
            scope.spawn(move || echo_on(connection, seed, *size));
        }
    });
    drop(connections);

    let sizes = random_sizes(12, 200, MOST);
    thread::scope(|scope| {
        scope.spawn(|| machine.dial(Address::Vsock(PORT), 1000, &sizes));
        for _ in &sizes {
            let connection = machine.accept(PORT);
            scope.spawn(move || {
                io::copy(&mut &connection, &mut &connection).unwrap();
                connection.shutdown(Shutdown::Write).unwrap();
            });
        }
    });
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_stream_ends_on_one_side_and_goes_on_in_the_other() {
    let machine = TestMachine::builder().without_root().boot();
    let (seed, bytes) = (21, 8 << 20);

    let mut stream = machine.ask_guest(&Request::Send { seed, bytes });
    stream.shutdown(Shutdown::Write).unwrap();
    Comparison::of(&mut stream, seed, bytes).unwrap();

    // The answer follows the last byte, which the guest learns of by the half-close.
    let mut stream = machine.ask_guest(&Request::Receive { seed, bytes });
    io::copy(&mut io::Read::take(Pattern::new(seed), bytes), &mut stream).unwrap();
    let output = GuestProcess::new(stream).finish();
    assert_eq!(output.ok().stdout, b"");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_port_on_which_nobody_listens_refuses() {
    let machine = TestMachine::builder().without_root().boot();
    let (kind, _) = machine.try_connect(4711).unwrap_err();
    assert_eq!(kind, RefusalKind::ConnectionRefused);
    machine.echo(1, 1000);
}
