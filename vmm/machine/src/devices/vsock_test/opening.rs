//! Opening connections, from both sides.

use super::{
    Arc, Bench, CID, FIRST_LOCAL_PORT, MAX_CONNECTIONS, MockDriver, NARROW_WINDOW, Peer, Read,
    Recorded, STREAM, UnixStream, Vsock, WIDE_CONNECTIONS, WINDOW, Write, op,
};

#[test]
fn the_host_connects() {
    let mut bench = Bench::new();
    let (_host, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(42, 1024, stream);
    bench.run();
    let (header, _) = bench.take().unwrap();
    assert_eq!(header.op, op::REQUEST);
    assert_eq!(header.kind, STREAM);
    assert_eq!((header.src_cid.get(), header.dst_cid.get()), (2, CID));
    assert_eq!(header.dst_port, 1024);
    assert_eq!(header.buf_alloc, WINDOW);
    assert!(header.src_port.get() >= FIRST_LOCAL_PORT);
    assert!(bench.finished().is_empty());

    bench.send_op(&Peer::new(1024, header.src_port.get()), op::RESPONSE);
    assert_eq!(bench.finished(), [(42, true)]);
    assert!(bench.take().is_none());
}

#[test]
fn the_guest_refuses_a_connection() {
    let mut bench = Bench::new();
    let (mut host, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(42, 1024, stream);
    bench.run();
    let (header, _) = bench.take().unwrap();
    bench.send_op(&Peer::new(1024, header.src_port.get()), op::RST);
    assert_eq!(bench.finished(), [(42, false)]);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_connection_is_not_open_before_the_guest_accepts() {
    let mut bench = Bench::new();
    let (mut host, stream) = UnixStream::pair().unwrap();
    host.write_all(b"early").unwrap();
    bench.connector.connect(1, 1024, stream);
    bench.run();
    let (header, _) = bench.take().unwrap();
    assert!(bench.take().is_none());
    // Data before the answer is against the protocol.
    let peer = Peer::new(1024, header.src_port.get());
    bench.send_data(&peer, b"no");
    bench.expect(&peer, op::RST);
    assert_eq!(bench.finished(), [(1, false)]);
}

#[test]
fn the_host_gives_up_before_the_guest_answers() {
    let mut bench = Bench::new();
    let (host, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(9, 1024, stream);
    bench.run();
    let (header, _) = bench.take().unwrap();
    drop(host);
    bench.run();
    let peer = Peer::new(1024, header.src_port.get());
    bench.expect(&peer, op::RST);
    assert_eq!(bench.finished(), [(9, false)]);
    // The guest's answer was under way already.
    bench.send_op(&peer, op::RESPONSE);
    bench.expect(&peer, op::RST);
    assert!(bench.finished().is_empty());
}

#[test]
fn the_guest_connects() {
    let mut bench = Bench::new();
    let (peer, mut host) = bench.accept(5000, 1025);
    bench.send_data(&peer, b"hello");
    let mut seen = [0; 5];
    host.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
}

/// Raises the limit of open files so that every connection may have two; false, with the reason
/// printed, where that is not allowed.
fn many_descriptors() -> bool {
    let wanted = 2 * MAX_CONNECTIONS as u64 + 500;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        println!("skipped: no more than {:?} descriptors", limit.maximum);
        return false;
    }
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(wanted.max(limit.current.unwrap_or(wanted))),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    true
}

#[test]
fn the_number_of_connections_is_limited() {
    if !many_descriptors() {
        return;
    }
    let mut bench = Bench::new();
    let mut hosts = Vec::new();
    for index in 0..MAX_CONNECTIONS as u32 - 1 {
        hosts.push(bench.accept(10_000 + index, 1025));
    }
    hosts.push(bench.connect());
    let peer = Peer::new(9, 1025);
    bench.send_op(&peer, op::REQUEST);
    bench.expect(&peer, op::RST);
    let (_host, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(5, 1024, stream);
    bench.run();
    assert_eq!(bench.finished(), [(5, false)]);
    // One goes, one may come.
    let (peer, _) = hosts.pop().unwrap();
    bench.send_op(&peer, op::RST);
    bench.run();
    bench.accept(9, 1025);
}

#[test]
fn only_so_many_connections_have_the_wide_window() {
    let mut bench = Bench::new();
    let mut hosts = Vec::new();
    for index in 0..WIDE_CONNECTIONS as u32 + 1 {
        let (peer, host) = bench.accept(10_000 + index, 1025);
        hosts.push((peer, host));
        bench.send_op(&peer, op::CREDIT_REQUEST);
        let granted = bench.expect(&peer, op::CREDIT_UPDATE).buf_alloc;
        let wide = hosts.len() <= WIDE_CONNECTIONS;
        assert_eq!(granted, if wide { WINDOW } else { NARROW_WINDOW });
    }
}

#[test]
fn requests_wait_for_the_device_but_not_without_limit() {
    if !many_descriptors() {
        return;
    }
    let bench = Bench::new();
    let events = Arc::new(Recorded::default());
    let (device, connector) = Vsock::new(CID as u32, Arc::clone(&events) as _).unwrap();
    let (_host, stream) = UnixStream::pair().unwrap();
    for request in 0..MAX_CONNECTIONS as u64 {
        connector.connect(request, 1024, stream.try_clone().unwrap());
    }
    assert!(events.finished.lock().unwrap().is_empty());
    connector.connect(5000, 1024, stream.try_clone().unwrap());
    assert_eq!(events.finished.lock().unwrap().pop(), Some((5000, false)));

    // As soon as the driver has started the device, the guest is asked.
    let mut bench = Bench {
        connector,
        events,
        ..bench
    };
    for (driver, base) in bench.drivers.iter_mut().zip([0x2_0000, 0x3_0000, 0x4_0000]) {
        let memory = Arc::clone(&driver.memory);
        *driver = MockDriver::new(&memory, base, driver.settings.size);
    }
    bench.activate(Box::new(device));
    bench.add_buffers(4);
    bench.run();
    assert_eq!(bench.take().unwrap().0.op, op::REQUEST);
}

#[test]
fn ports_of_open_connections_are_not_used_again() {
    let mut bench = Bench::new();
    let mut ports = std::collections::HashSet::new();
    let mut hosts = Vec::new();
    for _ in 0..100 {
        let (peer, host) = bench.connect();
        assert!(ports.insert(peer.host));
        hosts.push(host);
    }
}
