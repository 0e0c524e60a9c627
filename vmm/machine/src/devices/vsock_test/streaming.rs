//! Data and credit.

use super::{
    BUFFER, BUFFERS, Bench, ErrorKind, HEADER_SIZE, PACKET, Peer, RECEIVE, Read, UnixStream,
    WINDOW, Write, op, pattern, shutdown,
};

#[test]
fn data_goes_both_ways_on_several_connections() {
    let mut bench = Bench::new();
    let (mut first, mut first_host) = bench.connect();
    let (second, mut second_host) = bench.accept(5000, 1025);
    assert_ne!(first.host, second.host);
    first_host.write_all(b"to the first").unwrap();
    let (data, others) = bench.drain(&mut first);
    assert_eq!(data, b"to the first");
    assert!(others.is_empty());
    bench.send_data(&second, b"from the second");
    bench.send_data(&first, b"from the first");
    let mut seen = [0; 15];
    second_host.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"from the second");
    let mut seen = [0; 14];
    first_host.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"from the first");
    let counters = bench.device().counters();
    assert_eq!(
        (counters.bytes_from_guest, counters.bytes_to_guest),
        (29, 12)
    );
}

#[test]
fn a_long_stream_to_the_guest_arrives_whole() {
    const LENGTH: usize = 6 << 20;
    let mut bench = Bench::new();
    let (mut peer, mut host) = bench.connect();
    let writer = std::thread::spawn(move || {
        host.write_all(&pattern(LENGTH)).unwrap();
        host
    });
    let mut received = Vec::new();
    while received.len() < LENGTH {
        let (data, others) = bench.drain(&mut peer);
        assert!(others.is_empty());
        if data.is_empty() {
            std::thread::yield_now();
        }
        received.extend(data);
        bench.send_op(&peer, op::CREDIT_UPDATE);
    }
    assert_eq!(received.len(), LENGTH);
    assert!(received == pattern(LENGTH));
    drop(writer.join().unwrap());
}

#[test]
fn a_long_stream_to_the_host_arrives_whole() {
    const LENGTH: usize = 6 << 20;
    let mut bench = Bench::new();
    let (peer, mut host) = bench.connect();
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        host.read_to_end(&mut seen).unwrap();
        seen
    });
    // The guest keeps to the credit it knows of.
    let data = pattern(LENGTH);
    let (mut sent, mut taken) = (0usize, 0usize);
    while sent < LENGTH {
        let room = WINDOW as usize - (sent - taken);
        let now = room.min(64 * 1024).min(LENGTH - sent);
        if now > 0 {
            bench.send_data(&peer, &data[sent..sent + now]);
            sent += now;
        }
        bench.run();
        while let Some((header, _)) = bench.take() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            assert_eq!(header.buf_alloc, WINDOW);
            taken = header.fwd_cnt.get() as usize;
        }
    }
    bench.send_shutdown(&peer, shutdown::BOTH);
    while bench.take().is_none_or(|(header, _)| header.op != op::RST) {
        bench.run();
    }
    assert!(reader.join().unwrap() == data);
}

#[test]
fn the_host_waits_for_credit_without_spinning() {
    let mut bench = Bench::new();
    let (mut host, stream) = UnixStream::pair().unwrap();
    bench.connector.connect(1, 1024, stream);
    bench.run();
    let (header, _) = bench.take().unwrap();
    let mut peer = Peer::new(1024, header.src_port.get());
    peer.window = 10;
    bench.send_op(&peer, op::RESPONSE);
    host.write_all(b"0123456789abcdef").unwrap();

    let (data, others) = bench.drain(&mut peer);
    assert_eq!(data, b"0123456789");
    assert!(others.is_empty());
    let (data, others) = bench.drain(&mut peer);
    assert!(data.is_empty() && others.is_empty());

    bench.send_op(&peer, op::CREDIT_UPDATE);
    assert_eq!(bench.drain(&mut peer).0, b"abcdef");
}

#[test]
fn a_guest_whose_program_does_not_read_is_left_alone() {
    let mut bench = Bench::new();
    let (mut peer, mut host) = bench.connect();
    peer.window = 10;
    bench.send_op(&peer, op::CREDIT_UPDATE);
    host.write_all(&[7; 25]).unwrap();
    for expected in [10, 10] {
        let (data, others) = bench.drain(&mut peer);
        assert_eq!(data.len(), expected);
        assert!(others.is_empty());
        // What it tells without having read brings nothing.
        let read = peer.taken;
        peer.taken = read - 10;
        for _ in 0..3 {
            bench.send_op(&peer, op::CREDIT_UPDATE);
            let (data, others) = bench.drain(&mut peer);
            assert!(data.is_empty() && others.is_empty());
        }
        // Then its program reads.
        peer.taken = read;
        bench.send_op(&peer, op::CREDIT_UPDATE);
    }
    assert_eq!(bench.drain(&mut peer).0.len(), 5);
}

#[test]
fn the_host_waits_for_buffers_without_spinning() {
    let mut bench = Bench::without_buffers();
    bench.refill = false;
    let (mut host, stream) = UnixStream::pair().unwrap();
    host.write_all(b"waiting").unwrap();
    bench.connector.connect(1, 1024, stream);
    bench.run();
    assert!(bench.take().is_none());
    bench.drivers[RECEIVE].add(&[(BUFFERS, BUFFER, true)]);
    bench.device().on_queue(RECEIVE).unwrap();
    let (header, _) = bench.take().unwrap();
    let peer = Peer::new(1024, header.src_port.get());
    bench.send_op(&peer, op::RESPONSE);
    bench.run();
    // The device wants to hear of the next buffer.
    assert_eq!(bench.drivers[RECEIVE].available_event(), 1);
    bench.drivers[RECEIVE].add(&[(BUFFERS, BUFFER, true)]);
    bench.device().on_queue(RECEIVE).unwrap();
    assert_eq!(bench.take().unwrap().1, b"waiting");
}

#[test]
fn a_stalled_reader_stalls_the_guest_and_loses_nothing() {
    let mut bench = Bench::new();
    let (peer, mut host) = bench.connect();
    let block = pattern(16 * 1024);
    let (mut sent, mut told) = (0u32, 0u32);
    // Sends as long as it may.
    while sent - told < WINDOW {
        let now = (WINDOW - (sent - told)).min(16 * 1024);
        bench.send_data(&peer, &block[..now as usize]);
        sent += now;
        bench.run();
        while let Some((header, _)) = bench.take() {
            told = header.fwd_cnt.get();
        }
    }
    bench.run();
    assert!(bench.take().is_none());

    // The host reads again: what was held back follows, and the guest is told.
    let mut seen = 0;
    let mut buffer = vec![0; 65536];
    host.set_nonblocking(true).unwrap();
    while seen < sent as usize {
        match host.read(&mut buffer) {
            Ok(count) => {
                for (offset, byte) in buffer[..count].iter().enumerate() {
                    assert_eq!(*byte, block[(seen + offset) % block.len()]);
                }
                seen += count;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        bench.run();
    }
    let mut last = told;
    while let Some((header, _)) = bench.take() {
        assert_eq!(header.op, op::CREDIT_UPDATE);
        last = header.fwd_cnt.get();
    }
    assert!(sent - last <= WINDOW - PACKET, "{sent} {last}");
}

#[test]
fn the_guest_asks_for_credit() {
    let mut bench = Bench::new();
    let (peer, _host) = bench.connect();
    bench.send_data(&peer, b"12345");
    bench.send_op(&peer, op::CREDIT_REQUEST);
    let header = bench.expect(&peer, op::CREDIT_UPDATE);
    assert_eq!((header.buf_alloc.get(), header.fwd_cnt.get()), (WINDOW, 5));
    assert!(bench.take().is_none());
}

#[test]
fn a_burst_fills_every_buffer_but_the_last() {
    // A burst larger than one buffer goes out in as many full buffers as it takes.
    let mut bench = Bench::new();
    let (_peer, mut host) = bench.connect();
    host.write_all(&pattern(60_000)).unwrap();
    bench.run();
    let mut sizes = Vec::new();
    while let Some((_, data)) = bench.take() {
        sizes.push(data.len());
    }
    let room = BUFFER as usize - HEADER_SIZE;
    assert_eq!(sizes.len(), 60_000usize.div_ceil(room));
    assert!(sizes[..sizes.len() - 1].iter().all(|size| *size == room));
}
