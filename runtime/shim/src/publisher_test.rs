use std::time::Duration;

use super::{MAX_WAITING, Publisher};
use crate::event::TaskEvent;
use crate::fake_containerd::{FakeContainerd, Fault};

fn event(number: usize) -> TaskEvent {
    TaskEvent::OutOfMemory(format!("c{number}"))
}

fn number(envelope: &containerd_shim_protos::shim::event::Envelope) -> usize {
    use containerd_shim_protos::events::task::TaskOOM;
    use protobuf::Message;
    let event = TaskOOM::parse_from_bytes(&envelope.event.value).unwrap();
    event.container_id[1..].parse().unwrap()
}

fn publisher(dir: &tempfile::TempDir) -> Publisher {
    let address = FakeContainerd::address(dir.path());
    Publisher::start(&format!("unix://{}", address.display()), "default")
}

#[tokio::test]
async fn events_arrive_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut containerd = FakeContainerd::start(dir.path()).await;
    let publisher = publisher(&dir);
    for i in 0..100 {
        publisher.publish(&event(i));
    }
    for i in 0..100 {
        assert_eq!(number(&containerd.next().await), i);
    }
    publisher.flush(Duration::from_secs(5)).await;
    assert!(containerd.is_quiet());
}

#[tokio::test]
async fn a_fault_that_passes_delays_and_never_reorders() {
    let dir = tempfile::tempdir().unwrap();
    let faults = [Fault::Later, Fault::Later];
    let mut containerd = FakeContainerd::with_faults(dir.path(), faults).await;
    let publisher = publisher(&dir);
    for i in 0..5 {
        publisher.publish(&event(i));
    }
    for i in 0..5 {
        assert_eq!(number(&containerd.next().await), i);
    }
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut containerd = FakeContainerd::with_faults(dir.path(), [Fault::Refuse]).await;
    let publisher = publisher(&dir);
    publisher.publish(&event(0));
    publisher.publish(&event(1));
    assert_eq!(number(&containerd.next().await), 1);
}

#[tokio::test]
async fn events_wait_for_a_containerd_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&dir);
    publisher.publish(&event(0));
    publisher.publish(&event(1));
    // The first attempt meets nobody.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut containerd = FakeContainerd::start(dir.path()).await;
    assert_eq!(number(&containerd.next().await), 0);
    assert_eq!(number(&containerd.next().await), 1);
}

#[tokio::test]
async fn events_survive_a_restart_of_containerd() {
    let dir = tempfile::tempdir().unwrap();
    let mut containerd = FakeContainerd::start(dir.path()).await;
    let publisher = publisher(&dir);
    publisher.publish(&event(0));
    assert_eq!(number(&containerd.next().await), 0);
    containerd.stop().await;
    publisher.publish(&event(1));
    publisher.publish(&event(2));
    let mut again = FakeContainerd::start(dir.path()).await;
    assert_eq!(number(&again.next().await), 1);
    assert_eq!(number(&again.next().await), 2);
}

#[tokio::test]
async fn without_an_address_nobody_waits() {
    let publisher = Publisher::start("", "default");
    publisher.publish(&event(0));
    publisher.flush(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&dir);
    publisher.publish(&event(0));
    let began = tokio::time::Instant::now();
    publisher.flush(Duration::from_secs(5)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
async fn the_oldest_make_room_when_too_many_wait() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&dir);
    for i in 0..MAX_WAITING + 3 {
        publisher.publish(&event(i));
    }
    let mut containerd = FakeContainerd::start(dir.path()).await;
    assert_eq!(number(&containerd.next().await), 3);
}
