//! What only a broken or hostile guest does.

use super::super::table::Table;
use super::{
    Arc, BUFFER, BUFFERS, Bench, CID, Device, DeviceFault, FromBytes, HEADER_SIZE, Header,
    IntoBytes, MAX_CONNECTIONS, MockDriver, PACKETS, Peer, QUEUE_SIZES, RECEIVE, Read, Recorded,
    Shutdown, TRANSMIT, UnixStream, Vsock, Write, activation, guest_ram, op, pattern,
};

#[test]
fn a_guest_that_exceeds_its_credit_is_reset() {
    let mut bench = Bench::new();
    let (peer, host) = bench.connect();
    // Nobody reads: the socket fills up, then the window.
    let block = pattern(64 * 1024);
    let mut sent = 0;
    loop {
        bench.send_data(&peer, &block);
        sent += block.len();
        match bench.take() {
            None => {}
            Some((header, _)) if header.op == op::CREDIT_UPDATE => {}
            Some((header, _)) => {
                assert_eq!(header.op, op::RST);
                break;
            }
        }
        assert!(sent < 4 << 20, "never refused");
    }
    drop(host);
}

#[test]
fn what_is_not_meant_for_a_connection_is_reset() {
    let mut bench = Bench::new();
    let stranger = Peer::new(999, 888);
    for op in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        99,
    ] {
        bench.send_op(&stranger, op);
        bench.expect(&stranger, op::RST);
    }
    bench.send_op(&stranger, op::RST);
    assert!(bench.take().is_none());
}

#[test]
fn other_context_ids_and_types_are_reset() {
    let mut bench = Bench::new();
    let peer = Peer::new(5000, 1025);
    let mut wrong_destination = peer.header(op::REQUEST);
    wrong_destination.dst_cid.set(4);
    let mut wrong_source = peer.header(op::REQUEST);
    wrong_source.src_cid.set(8);
    let mut seqpacket = peer.header(op::REQUEST);
    seqpacket.kind.set(2);
    for header in [wrong_destination, wrong_source, seqpacket] {
        bench.send(header);
        let (head, _) = bench.drivers[RECEIVE].take_used().unwrap();
        let at = BUFFERS + u64::from(head) * u64::from(BUFFER);
        let answer =
            Header::read_from_bytes(&bench.drivers[RECEIVE].read::<HEADER_SIZE>(at)).unwrap();
        assert_eq!(answer, header.reset());
        assert_eq!(answer.src_cid, header.dst_cid);
        assert_eq!(answer.kind, header.kind);
        let mut reset = header;
        reset.op.set(op::RST);
        bench.send(reset);
        assert!(bench.drivers[RECEIVE].take_used().is_none());
    }
    assert!(bench.events.connected.lock().unwrap().is_empty());
}

#[test]
fn an_operation_that_makes_no_sense_resets_the_connection() {
    for operation in [0, op::REQUEST, op::RESPONSE, 8, u16::MAX] {
        let mut bench = Bench::new();
        let (peer, mut host) = bench.connect();
        bench.send_op(&peer, operation);
        bench.expect(&peer, op::RST);
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
        assert_eq!(bench.device().watches().len(), 1);
    }
}

#[test]
fn a_packet_longer_than_its_buffers_stops_the_device() {
    let mut bench = Bench::new();
    let (peer, _host) = bench.connect();
    for len in [6, 65_536, u32::MAX] {
        let mut header = peer.header(op::RW);
        header.len.set(len);
        assert!(matches!(
            bench.try_send(header, b"12345"),
            Err(DeviceFault::Queue {
                index: TRANSMIT,
                ..
            })
        ));
        bench = Bench::new();
    }
}

#[test]
fn a_truncated_header_stops_the_device() {
    let mut bench = Bench::new();
    bench.drivers[TRANSMIT].add(&[(PACKETS, HEADER_SIZE as u32 - 1, false)]);
    assert!(bench.device().on_queue(TRANSMIT).is_err());
}

#[test]
fn a_receive_buffer_without_room_stops_the_device() {
    for length in [HEADER_SIZE as u32 - 1, HEADER_SIZE as u32] {
        let mut bench = Bench::new();
        let (_peer, mut host) = bench.connect();
        bench.refill = false;
        // Use up the good ones.
        let mut fault = None;
        for _ in 0..1000 {
            bench.drivers[RECEIVE].try_add(&[(BUFFERS, length, true)]);
            host.write_all(&[0; 100]).unwrap();
            let watch = bench.device().watches().pop().unwrap();
            if let Err(error) = bench.device().on_ready(watch.token) {
                fault = Some(error);
                break;
            }
            bench.drivers[RECEIVE].take_used();
        }
        assert!(matches!(
            fault,
            Some(DeviceFault::Queue { index: RECEIVE, .. })
        ));
    }
}

#[test]
fn a_flood_of_bad_packets_costs_nothing() {
    let mut bench = Bench::without_buffers();
    let stranger = Peer::new(1, 2);
    for _ in 0..10_000 {
        bench.send_op(&stranger, op::RW);
    }
    bench.add_buffers(QUEUE_SIZES[RECEIVE]);
    bench.device().on_queue(RECEIVE).unwrap();
    bench.run();
    let mut answers = 0;
    while bench.take().is_some() {
        answers += 1;
    }
    assert_eq!(answers, 256);
}

#[test]
fn connections_that_end_before_they_are_answered_leave_nothing() {
    let mut driver = MockDriver::new(&guest_ram(), 0x1000, 8);
    let mut queue = driver.queue(0).unwrap();
    let mut table = Table::new(CID, Arc::new(Recorded::default()));
    // The guest never gives a buffer, so nothing that waits for one is ever sent.
    for port in 0..1000 {
        for operation in [op::REQUEST, op::RST] {
            let header = Peer::new(port, 1025).header(operation);
            driver.write(PACKETS, header.as_bytes());
            driver.add(&[(PACKETS, HEADER_SIZE as u32, false)]);
            let chain = queue.pop().unwrap().unwrap();
            table.on_packet(&chain).unwrap();
            queue.complete(chain, 0).unwrap();
            driver.take_used();
        }
    }
    let held = table.held();
    assert_eq!((held.connections, held.resets, held.ready), (0, 0, 0));
}

#[test]
fn a_missing_queue_is_named() {
    let bench = Bench::new();
    let (device, _connector) = Vsock::new(3, Arc::clone(&bench.events) as _).unwrap();
    let queues = vec![Some(bench.drivers[0].queue(0).unwrap()), None, None];
    let activation = activation(0, &bench.drivers[0].memory, queues);
    let Err((_, fault)) = Box::new(device).activate(activation) else {
        panic!("activated");
    };
    assert!(matches!(fault, DeviceFault::QueueMissing(TRANSMIT)));
}

#[test]
fn the_configuration_space_holds_the_context_id() {
    let (device, _connector) = Vsock::new(3, Arc::new(Recorded::default())).unwrap();
    let mut config = [0xee; 9];
    device.config().read(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(device.config().length(), 8);
}

/// Packets of which nearly everything is random, on a few ports so that they meet.
#[test]
fn no_packet_brings_it_down() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut bench = Bench::new();
    let mut hosts: Vec<UnixStream> = Vec::new();
    for _ in 0..30_000 {
        let mut header =
            Peer::new(random(4) as u32, 1025 + random(3) as u32).header(random(9) as u16);
        header.flags.set(random(5) as u32);
        header.buf_alloc.set(1 << random(32));
        header.fwd_cnt.set((1u64 << random(33)) as u32);
        let data = vec![1; random(2000) as usize];
        header.len.set(data.len() as u32);
        if random(50) == 0 {
            header.dst_cid.set(random(5));
        }
        bench.try_send(header, &data).unwrap();
        hosts.extend(
            bench
                .events
                .connected
                .lock()
                .unwrap()
                .drain(..)
                .map(|(_, host)| host),
        );
        if !hosts.is_empty() {
            let index = random(hosts.len() as u64) as usize;
            match random(5) {
                0 => drop(hosts.swap_remove(index)),
                1 => {
                    let _ = hosts[index].set_nonblocking(true);
                    let _ = hosts[index].write(&[2; 5000]);
                }
                2 => {
                    let _ = hosts[index].set_nonblocking(true);
                    let _ = hosts[index].read(&mut [0; 9000]);
                }
                3 => {
                    let _ = hosts[index].shutdown(Shutdown::Write);
                }
                _ => {}
            }
        }
        bench.run();
        while bench.take().is_some() {}
    }
    // Twelve pairs of ports, and what drains.
    assert!(bench.device().watches().len() <= MAX_CONNECTIONS + 1);
    drop(hosts);
    bench.run();
}
