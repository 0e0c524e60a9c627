use std::time::{Duration, UNIX_EPOCH};

use containerd_shim_protos::events::task::TaskExit;
use protobuf::Message;

use super::{TaskEvent, timestamp};
use crate::process::{Exit, ProcessKey};
use crate::stdio::StdioPaths;

fn exit() -> Exit {
    Exit {
        status: 42,
        at: UNIX_EPOCH + Duration::from_millis(1500),
    }
}

#[test]
fn an_exit_is_sent_under_containerds_names() {
    let at = UNIX_EPOCH + Duration::from_secs(2);
    let event = TaskEvent::Exited(ProcessKey::new("c1", "e1"), 7, exit());
    let envelope = event.envelope("k8s.io", at);
    assert_eq!(envelope.namespace, "k8s.io");
    assert_eq!(envelope.topic, "/tasks/exit");
    assert_eq!(envelope.timestamp.seconds, 2);
    assert_eq!(envelope.event.type_url, "containerd.events.TaskExit");
    let exit = TaskExit::parse_from_bytes(&envelope.event.value).unwrap();
    assert_eq!((exit.container_id.as_str(), exit.id.as_str()), ("c1", "e1"));
    assert_eq!((exit.pid, exit.exit_status), (7, 42));
    assert_eq!(
        (exit.exited_at.seconds, exit.exited_at.nanos),
        (1, 500_000_000)
    );
}

#[test]
fn the_exit_of_init_has_the_containers_id() {
    let event = TaskEvent::Exited(ProcessKey::new("c1", ""), 7, exit());
    let value = event.envelope("default", UNIX_EPOCH).event.unwrap().value;
    assert_eq!(TaskExit::parse_from_bytes(&value).unwrap().id, "c1");
}

#[test]
fn a_clock_before_1970_is_no_fault() {
    let before = timestamp(UNIX_EPOCH - Duration::from_secs(5));
    assert_eq!((before.seconds, before.nanos), (0, 0));
}

/// Every name is that of the message inside.
#[test]
fn the_names_of_events_are_those_of_their_messages() {
    use containerd_shim_protos::events::task;
    use protobuf::MessageFull;
    fn name<M: MessageFull>() -> String {
        M::descriptor().full_name().to_owned()
    }
    let key = || ProcessKey::new("c1", "e1");
    let id = || "c1".to_owned();
    let created = TaskEvent::Created {
        id: id(),
        bundle: String::new(),
        rootfs: Vec::new(),
        stdio: StdioPaths::default(),
        pid: 1,
    };
    let deleted = TaskEvent::Deleted {
        id: id(),
        pid: 1,
        exit: exit(),
    };
    let table = [
        (created, name::<task::TaskCreate>()),
        (
            TaskEvent::Started { id: id(), pid: 1 },
            name::<task::TaskStart>(),
        ),
        (TaskEvent::ExecAdded(key()), name::<task::TaskExecAdded>()),
        (
            TaskEvent::ExecStarted(key(), 1),
            name::<task::TaskExecStarted>(),
        ),
        (TaskEvent::OutOfMemory(id()), name::<task::TaskOOM>()),
        (TaskEvent::Paused(id()), name::<task::TaskPaused>()),
        (TaskEvent::Resumed(id()), name::<task::TaskResumed>()),
        (TaskEvent::Exited(key(), 1, exit()), name::<TaskExit>()),
        (deleted, name::<task::TaskDelete>()),
    ];
    for (event, name) in table {
        let envelope = event.envelope("default", UNIX_EPOCH);
        assert_eq!(envelope.event.type_url, name);
    }
}
