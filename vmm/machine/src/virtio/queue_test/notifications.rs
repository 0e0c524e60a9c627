//! Who tells whom, and how often.

use super::{DATA, QueueError, WRITE, driver};

#[test]
fn interrupts_come_when_the_driver_asked_for_them() {
    let mut driver = driver(8);
    let mut queue = driver.queue(0).unwrap();
    // Only when the second chain is used.
    driver.write_used_event(1);
    for expected in [0, 1, 0] {
        driver.add(&[(DATA, 1, true)]);
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain, 0).unwrap();
        queue.signal_used().unwrap();
        assert_eq!(driver.interrupts(), expected);
    }
    // Nothing completed: nothing to tell.
    driver.write_used_event(3);
    queue.signal_used().unwrap();
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn without_event_idx_every_batch_interrupts() {
    let mut driver = driver(8);
    driver.settings.event_idx = false;
    let mut queue = driver.queue(0).unwrap();
    driver.add(&[(DATA, 1, true)]);
    driver.add(&[(DATA, 1, true)]);
    queue.serve(|_| Ok::<_, QueueError>(0)).unwrap();
    assert_eq!(driver.interrupts(), 1);
    queue.serve(|_| Ok::<_, QueueError>(0)).unwrap();
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn serving_asks_for_the_next_notification() {
    let mut driver = driver(8);
    let mut queue = driver.queue(0).unwrap();
    for _ in 0..3 {
        driver.add(&[(DATA, 1, true)]);
    }
    let mut serve = || queue.serve(|_| Ok::<_, QueueError>(0)).unwrap();
    // It comes back by itself, and asks only when there was nothing more.
    serve();
    assert_eq!(driver.available_event(), 0);
    assert_eq!(driver.kick.read().unwrap(), 1);
    serve();
    assert_eq!(driver.available_event(), 3);
    assert!(driver.kick.read().is_err());
}

#[test]
fn a_driver_at_work_notifies_once() {
    let mut driver = driver(8);
    let mut queue = driver.queue(0).unwrap();
    let mut served = 0;
    for chain in 0..5 {
        driver.write_used_event(chain);
        driver.add(&[(DATA, 1, true)]);
        queue
            .serve(|_| {
                served += 1;
                Ok::<_, QueueError>(0)
            })
            .unwrap();
        assert_eq!(driver.interrupts(), 1);
        assert!(driver.take_used().is_some());
        // The driver would notify for chain 0 alone; the queue has seen to the next look itself.
        assert_eq!(driver.available_event(), 0);
        assert_eq!(driver.kick.read().unwrap(), 1);
    }
    assert_eq!(served, 5);
}

#[test]
fn a_chain_added_between_the_last_look_and_the_request_to_notify_is_seen() {
    let mut driver = driver(8);
    let mut queue = driver.queue(0).unwrap();
    driver.add(&[(DATA, 1, true)]);
    queue.serve(|_| Ok::<_, QueueError>(0)).unwrap();
    assert!(queue.pop().unwrap().is_none());
    // Here it comes, and no notification with it.
    driver.add(&[(DATA, 1, true)]);
    assert!(queue.rest().unwrap());
    assert!(queue.pop().unwrap().is_some());
    // Then everything begins anew.
    assert!(!queue.rest().unwrap());
    assert!(!queue.rest().unwrap());
    assert_eq!(driver.available_event(), 2);
}

#[test]
fn a_queue_that_was_found_empty_does_not_come_back_for_ever() {
    let mut driver = driver(8);
    let mut queue = driver.queue(0).unwrap();
    driver.add(&[(DATA, 1, true)]);
    let mut turns = 1;
    queue.serve(|_| Ok::<_, QueueError>(0)).unwrap();
    while driver.kick.read().is_ok() {
        turns += 1;
        queue.serve(|_| Ok::<_, QueueError>(0)).unwrap();
    }
    assert_eq!(turns, 2);
}

#[test]
fn a_chain_added_while_the_queue_is_served_is_not_missed() {
    let mut driver = driver(8);
    let mut queue = driver.queue(0).unwrap();
    driver.add(&[(DATA, 1, true)]);
    let mut served = 0;
    queue
        .serve(|_| {
            served += 1;
            if served == 1 {
                driver.add(&[(DATA, 1, true)]);
            }
            Ok::<_, QueueError>(0)
        })
        .unwrap();
    assert_eq!(served, 2);
}

#[test]
fn a_driver_that_never_stops_adding_gets_one_ring_at_a_time() {
    let mut driver = driver(4);
    let mut queue = driver.queue(0).unwrap();
    driver.write_descriptor(0, (DATA, 1, WRITE, 0));
    driver.write_descriptor(1, (DATA, 1, WRITE, 0));
    driver.make_available(0);
    let mut served = 0u16;
    queue
        .serve(|_| {
            served += 1;
            driver.make_available(served % 2);
            Ok::<_, QueueError>(0)
        })
        .unwrap();
    assert_eq!(served, 4);
    // It comes back by itself.
    assert_eq!(driver.kick.read().unwrap(), 1);
}
