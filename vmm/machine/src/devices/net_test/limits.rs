use caisson_control::{Limits, NetConfig, Rate};

use super::{MRG_RXBUF, Rig, config, packet};

/// Three packets at once, then one every 20 ms.
fn packets() -> Limits {
    Limits {
        operations: Some(Rate {
            per_second: 50,
            burst: 3,
        }),
        bytes: None,
    }
}

/// As many bytes at once as three packets of 100 bytes have, then more.
fn bytes() -> Limits {
    Limits {
        operations: None,
        bytes: Some(Rate {
            per_second: 5_000,
            burst: 288,
        }),
    }
}

/// The host sends ten packets; the tap must not be waited for while the limit holds.
fn receive_limited(receive: Limits) {
    let config = NetConfig {
        receive,
        ..config(1)
    };
    let mut rig = Rig::with(&config, MRG_RXBUF);
    for _ in 0..20 {
        rig.offer(0, &[1530]);
    }
    for seed in 0..10 {
        rig.hosts[0].send(&packet(112, seed)).unwrap();
    }
    rig.device().on_ready(0).unwrap();
    let mut got = 0;
    let mut take = |rig: &mut Rig| {
        while rig.receive[0].take_used().is_some() {
            got += 1;
        }
        got
    };
    let at_once = take(&mut rig);
    assert!((3..10).contains(&at_once), "{at_once}");
    assert_eq!(rig.watched(0), (false, false));
    assert!(rig.counters().throttled > 0);
    while take(&mut rig) < 10 {
        rig.serve(true);
    }
    assert_eq!(rig.counters().dropped, 0);
}

#[test]
fn a_limit_on_packets_slows_the_receive_queue_down() {
    receive_limited(packets());
}

#[test]
fn a_limit_on_bytes_slows_the_receive_queue_down() {
    receive_limited(bytes());
}

/// The guest sends ten packets.
fn transmit_limited(transmit: Limits) {
    let config = NetConfig {
        transmit,
        ..config(1)
    };
    let mut rig = Rig::with(&config, 0);
    for seed in 0..10 {
        rig.send(0, &packet(112, seed));
    }
    rig.notify_transmit(0).unwrap();
    let mut got = 0;
    let mut take = |rig: &Rig| {
        while let Some(received) = rig.received(0) {
            assert_eq!(received, packet(112, got));
            got += 1;
        }
        got
    };
    let at_once = take(&rig);
    assert!((3..10).contains(&at_once), "{at_once}");
    assert!(rig.counters().throttled > 0);
    // The driver's notifications do not get round the limit.
    let throttled = rig.counters().throttled;
    rig.notify_transmit(0).unwrap();
    assert_eq!(rig.counters().throttled, throttled);
    while take(&rig) < 10 {
        rig.serve(true);
    }
    assert_eq!(rig.counters().dropped, 0);
}

#[test]
fn a_limit_on_packets_slows_the_transmit_queue_down() {
    transmit_limited(packets());
}

#[test]
fn a_limit_on_bytes_slows_the_transmit_queue_down() {
    transmit_limited(bytes());
}

#[test]
fn a_limit_outlives_a_pause() {
    let config = NetConfig {
        transmit: packets(),
        ..config(1)
    };
    let mut rig = Rig::with(&config, 0);
    for seed in 0..10 {
        rig.send(0, &packet(112, seed));
    }
    rig.notify_transmit(0).unwrap();
    let stopped = rig.stop();
    rig.start(stopped.device, &stopped.positions);
    rig.notify_transmit(0).unwrap();
    let mut got = 0;
    while got < 10 {
        rig.serve(true);
        while let Some(received) = rig.received(0) {
            assert_eq!(received, packet(112, got));
            got += 1;
        }
    }
}
