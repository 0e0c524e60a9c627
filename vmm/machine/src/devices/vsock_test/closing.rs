//! Closing, half and whole, and what is under way meanwhile.

use super::{
    Arc, Bench, ErrorKind, HEADER_SIZE, IntoBytes, MockDriver, PACKETS, Peer, Read, Shutdown,
    Stopped, TRANSMIT, UnixStream, WINDOW, Write, flags, op, pattern, shutdown,
};

#[test]
fn the_guest_stops_sending_and_goes_on_receiving() {
    let mut bench = Bench::new();
    let (mut peer, mut host) = bench.connect();
    bench.send_data(&peer, b"last");
    bench.send_shutdown(&peer, shutdown::SEND);
    let mut seen = Vec::new();
    host.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"last");
    host.write_all(b"answer").unwrap();
    assert_eq!(bench.drain(&mut peer).0, b"answer");
    // Sending after that is against the protocol.
    bench.send_data(&peer, b"more");
    bench.expect(&peer, op::RST);
}

#[test]
fn the_guest_stops_receiving() {
    let mut bench = Bench::new();
    let (peer, mut host) = bench.connect();
    bench.send_shutdown(&peer, shutdown::RECEIVE);
    bench.run();
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    bench.send_data(&peer, b"still sending");
    let mut seen = [0; 13];
    host.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"still sending");
    drop(host);
    bench.run();
    assert_eq!(flags(&bench.expect(&peer, op::SHUTDOWN)), shutdown::BOTH);
}

#[test]
fn the_host_stops_sending_and_goes_on_receiving() {
    let mut bench = Bench::new();
    let (mut peer, mut host) = bench.connect();
    host.write_all(b"last").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let (data, others) = bench.drain(&mut peer);
    assert_eq!(data, b"last");
    assert_eq!(others.len(), 1);
    assert_eq!(
        (others[0].op.get(), flags(&others[0])),
        (op::SHUTDOWN, shutdown::SEND)
    );
    bench.send_data(&peer, b"answer");
    let mut seen = [0; 6];
    host.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"answer");
    // Then the guest closes.
    bench.send_shutdown(&peer, shutdown::BOTH);
    bench.expect(&peer, op::RST);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn both_stop_sending_one_after_the_other() {
    let mut bench = Bench::new();
    let (mut peer, mut host) = bench.connect();
    bench.send_shutdown(&peer, shutdown::SEND);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    host.write_all(b"the end").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let (data, others) = bench.drain(&mut peer);
    assert_eq!(data, b"the end");
    assert!(others.iter().all(|other| other.op == op::SHUTDOWN));
    assert_ne!(flags(others.last().unwrap()) & shutdown::SEND, 0);
    bench.send_shutdown(&peer, shutdown::BOTH);
    bench.expect(&peer, op::RST);
}

#[test]
fn the_host_closes_with_data_under_way() {
    let mut bench = Bench::new();
    let (mut host, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(1, 1024, stream);
    bench.run();
    let (header, _) = bench.take().unwrap();
    let mut peer = Peer::new(1024, header.src_port.get());
    // Too little for everything, so that the end comes while data waits for credit.
    peer.window = 5000;
    bench.send_op(&peer, op::RESPONSE);
    let sent = pattern(100_000);
    host.write_all(&sent).unwrap();
    drop(host);
    let (mut received, mut told) = (Vec::new(), 0);
    while received.len() < sent.len() {
        let (data, others) = bench.drain(&mut peer);
        received.extend(data);
        for other in others {
            if other.op == op::SHUTDOWN {
                // "Will not send" must not come before the last byte.
                assert!(flags(&other) & shutdown::SEND == 0 || received.len() == sent.len());
                told |= flags(&other);
            }
        }
        bench.send_op(&peer, op::CREDIT_UPDATE);
    }
    for other in bench.drain(&mut peer).1 {
        told |= flags(&other);
    }
    assert!(received == sent);
    assert_eq!(told, shutdown::BOTH);
    // The guest has had enough, too.
    bench.send_op(&peer, op::RST);
    assert_eq!(bench.device().watches().len(), 1);
}

#[test]
fn the_guest_closes_with_data_under_way() {
    for close in [op::SHUTDOWN, op::RST] {
        let mut bench = Bench::new();
        let (peer, mut host) = bench.connect();
        // More than the socket takes at once.
        let block = pattern(32 * 1024);
        let (mut sent, mut told) = (0u32, 0u32);
        while sent - told + 32 * 1024 <= WINDOW {
            bench.send_data(&peer, &block);
            sent += 32 * 1024;
            while let Some((header, _)) = bench.take() {
                told = header.fwd_cnt.get();
            }
        }
        if close == op::SHUTDOWN {
            bench.send_shutdown(&peer, shutdown::BOTH);
        } else {
            bench.send_op(&peer, op::RST);
        }
        // The guest waits until the host has everything.
        bench.run();
        assert!(bench.take().is_none());

        host.set_nonblocking(true).unwrap();
        let mut seen = Vec::new();
        loop {
            match host.read_to_end(&mut seen) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            bench.run();
        }
        assert_eq!(seen.len(), sent as usize);
        assert!(seen.chunks(block.len()).all(|chunk| chunk == block));
        if close == op::SHUTDOWN {
            bench.expect(&peer, op::RST);
        }
        assert!(bench.take().is_none());
        // Nothing is left but the connector.
        assert_eq!(bench.device().watches().len(), 1);
    }
}

#[test]
fn a_guest_that_closes_lets_the_host_see_the_end_although_it_wrote() {
    let mut bench = Bench::new();
    let (peer, mut host) = bench.connect();
    bench.send_data(&peer, b"output");
    host.write_all(b"input that nobody reads").unwrap();
    bench.send_shutdown(&peer, shutdown::BOTH);
    bench.expect(&peer, op::RST);
    let mut seen = Vec::new();
    host.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"output");
}

#[test]
fn data_for_a_host_that_is_gone_is_dropped_and_the_guest_told() {
    let mut bench = Bench::new();
    let (peer, host) = bench.connect();
    drop(host);
    // The guest sends before the io thread has noticed.
    bench.send_data(&peer, b"too late");
    bench.run();
    let mut told = 0;
    while let Some((header, _)) = bench.take() {
        if header.op == op::SHUTDOWN {
            told |= flags(&header);
        }
    }
    assert_eq!(told, shutdown::BOTH);
    // It may not have seen that yet.
    for _ in 0..100 {
        bench.send_data(&peer, &[0; 60_000]);
        bench.run();
        while bench.take().is_some() {}
    }
    bench.send_op(&peer, op::RST);
}

#[test]
fn stopping_delivers_what_the_guest_sent_and_answers_who_waits() {
    let mut bench = Bench::new();
    let (peer, mut host) = bench.connect();
    let (_other, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(77, 1026, stream);
    bench.run();
    bench.take().unwrap();
    // In the ring, but the io thread has not come to it.
    let mut header = peer.header(op::RW);
    header.len.set(10);
    bench.drivers[TRANSMIT].write(PACKETS, header.as_bytes());
    bench.drivers[TRANSMIT].write(PACKETS + 0x1000, b"last words");
    bench.drivers[TRANSMIT].add(&[
        (PACKETS, HEADER_SIZE as u32, false),
        (PACKETS + 0x1000, 10, false),
    ]);
    let served = bench.device().counters().requests;
    let Stopped {
        mut device,
        positions,
    } = bench.device.take().unwrap().stop();
    assert_eq!(bench.finished(), [], "the guest can still answer");
    device.reset();
    assert_eq!(bench.finished(), [(77, false)]);
    let mut seen = Vec::new();
    host.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"last words");
    assert_eq!(positions.len(), 3);
    assert_eq!(
        positions[TRANSMIT].next_avail,
        positions[TRANSMIT].next_used
    );

    // After the reset the driver starts with new queues; the device knows nothing of before.
    let memory = Arc::clone(&bench.drivers[0].memory);
    for (driver, base) in bench.drivers.iter_mut().zip([0x2_0000, 0x3_0000, 0x4_0000]) {
        *driver = MockDriver::new(&memory, base, driver.settings.size);
    }
    bench.activate(device);
    bench.add_buffers(16);
    bench.send_op(&peer, op::CREDIT_UPDATE);
    bench.expect(&peer, op::RST);
    let (_peer, _host) = bench.connect();
    assert!(bench.device().counters().requests > served);
}
