//! Stops in the middle of requests.

use super::test_engines::{clumsy, lost, patient};
use super::*;

#[test]
fn a_stop_waits_for_what_is_in_flight() {
    let mut bench = Bench::new(patient);
    let write = bench.ask(0, 0, (kind::OUT, 3), &[7; 512], 0);
    let read = bench.ask(0, 1, (kind::IN, 5), &[], 512);
    bench.device().on_queue(0).unwrap();
    bench.collect();
    assert!(bench.answers.is_empty());
    let Stopped { device, positions } = bench.stop();
    bench.collect();
    assert_eq!(
        bench.answers,
        BTreeMap::from([((0, write), 1), ((0, read), 513)])
    );
    assert_eq!((bench.status(0), bench.status(1)), (0, 0));
    assert_eq!(bench.on_disk(3, 512), [7; 512]);
    assert_eq!(bench.in_memory(ROOM + 0x1_0000, 512), bench.on_disk(5, 512));
    assert!(bench.drivers[0].interrupts() > 0);
    assert_eq!((positions[0].next_avail, positions[0].next_used), (2, 2));
    assert_eq!(device.config().length(), 60);
}

#[test]
fn it_goes_on_where_it_stopped() {
    for engine in engines() {
        let mut bench = Bench::new(engine);
        let mut heads = Vec::new();
        // It stops after 16 requests of which the driver has told it of some, in every state.
        for round in 0..16 {
            for n in 0..16 {
                let place = round * 16 + n;
                let data = [place as u8 ^ 0x5a; 512];
                heads.push((
                    bench.ask(0, place % 64, (kind::OUT, place), &data, 0),
                    place,
                ));
                if n == round {
                    bench.device().on_queue(0).unwrap();
                }
            }
            let Stopped { device, positions } = bench.stop();
            bench.activate(device, &positions);
            bench.drivers[0].kick.write(1).unwrap();
            for (head, _) in heads.drain(..) {
                bench.answer(0, head).unwrap();
            }
        }
        for place in 0..256u64 {
            assert_eq!(bench.on_disk(place, 512), [place as u8 ^ 0x5a; 512][..]);
        }
        let counters = bench.device().counters();
        assert_eq!(
            (counters.requests, counters.bytes_from_guest),
            (256, 256 * 512)
        );
    }
}

#[test]
fn a_stop_finishes_a_request_of_many_calls() {
    let mut bench = Bench::new(clumsy);
    bench.ask(0, 0, (kind::IN, 0), &[], 4096);
    bench.device().on_queue(0).unwrap();
    bench.stop();
    bench.collect();
    assert_eq!(bench.answers.len(), 1);
    assert_eq!(bench.in_memory(ROOM, 4096), bench.on_disk(0, 4096));
}

#[test]
fn an_engine_that_fails_does_not_hold_up_a_stop() {
    let mut bench = Bench::new(lost);
    bench.ask(0, 0, (kind::IN, 0), &[], 512);
    bench.device().on_queue(0).unwrap();
    let Stopped { positions, .. } = bench.stop();
    assert_eq!((positions[0].next_avail, positions[0].next_used), (1, 0));
}

#[test]
fn what_is_in_flight_is_finished_when_another_chain_is_at_fault() {
    for engine in engines().into_iter().chain([patient as EngineMaker]) {
        let mut bench = Bench::new(engine);
        let head = bench.ask(0, 0, (kind::OUT, 3), &[7; 512], 0);
        bench.add(0, &[(HEADER, 16, false)]);
        bench.device().on_queue(0).unwrap_err();
        bench.stop();
        bench.collect();
        assert_eq!(bench.answers, BTreeMap::from([((0, head), 1)]));
        assert_eq!(bench.on_disk(3, 512), [7; 512]);
    }
}

#[test]
fn the_ring_is_made_on_the_first_request() {
    if engines().len() < 2 {
        return;
    }
    let mut bench = Bench::new(ring);
    assert_eq!(bench.device().watches(), []);
    let head = bench.ask(0, 0, (kind::IN, 0), &[], 512);
    assert_eq!(bench.device().on_queue(0).unwrap(), Interest::Changed);
    assert_eq!(bench.device().watches().len(), 1);
    bench.answer(0, head).unwrap();
    bench.ask(0, 0, (kind::IN, 0), &[], 512);
    assert_eq!(bench.device().on_queue(0).unwrap(), Interest::Same);
}

#[test]
fn a_queue_that_the_driver_left_alone_is_left_alone() {
    let config = DiskConfig {
        queues: 3,
        ..config()
    };
    let device = Block::with_engine(&config, vec![contents(512).into()], plain).unwrap();
    let driver = MockDriver::new(&guest_ram(), 0x1000, 16);
    let queues = vec![Some(driver.queue(0).unwrap()), None];
    let device = Box::new(device).activate(activation(FLUSH, &driver.memory, queues));
    let mut device = device.map_err(|(_, fault)| fault).unwrap();
    for queue in 0..4 {
        assert_eq!(device.on_queue(queue).unwrap(), Interest::Same);
    }
    assert_eq!(device.stop().positions.len(), 1);
}
