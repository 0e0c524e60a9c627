//! Calls that meet a fault, and calls that meet each other.

use std::collections::BTreeSet;

use super::*;

/// What Create does when it fails at each of its points.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_create_that_fails_at_any_point_leaves_neither_container_nor_machine() {
    for point in [
        "create-before-vm",
        "create-after-vm",
        "create-after-container",
    ] {
        let mut bench = Bench::new().await;
        let annotations = format!(r#"{{"caisson.fail-points":"{point}=error"}}"#);
        let request = bench.request("c1", &annotations);
        let error = Arc::clone(&bench.pod).create(request).await.unwrap_err();
        assert!(error.to_string().contains(point), "{error}");
        let state = bench.pod.state(&init()).unwrap_err();
        assert_eq!(state.code(), Code::NOT_FOUND, "{point}");
        let launched = bench.vm.launched().is_some();
        let stopped = bench.vm.calls().contains(&"stop /".to_owned());
        assert_eq!(launched, stopped, "{point}: {:?}", bench.vm.calls());
        assert!(bench.containerd.is_quiet(), "{point}: nobody was told");
        assert!(Arc::clone(&bench.pod).shutdown(false).await, "{point}");
    }
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_delete_that_fails_at_any_point_can_be_tried_again() {
    for point in ["delete-before-guest", "delete-after-guest"] {
        let mut bench = Bench::new().await;
        let annotations = format!(r#"{{"caisson.fail-points":"{point}=error"}}"#);
        let request = bench.request("c1", &annotations);
        Arc::clone(&bench.pod).create(request).await.unwrap();
        bench.start(init()).await.unwrap();
        bench.vm.exit("c1", "", 7, false);
        bench.wait(&init()).await;
        let error = bench.delete(init()).await.unwrap_err();
        assert_eq!(error.code(), Code::INTERNAL, "{point}");
        assert_eq!(bench.delete(init()).await.unwrap().1.status, 7, "{point}");
        let topics = bench.containerd.topics(4).await;
        assert_eq!(topics, ["create", "start", "exit", "delete"], "{point}");
    }
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_fail_point_that_does_not_exist_is_an_error_of_create() {
    let bench = Bench::new().await;
    let request = bench.request("c1", r#"{"caisson.fail-points":"creat=error"}"#);
    let error = Arc::clone(&bench.pod).create(request).await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert!(error.to_string().contains("no point \"creat\""), "{error}");
    assert!(bench.vm.launched().is_none());
}

#[tokio::test]
async fn p02_of_sixteen_deletes_one_deletes() {
    let mut bench = Bench::running().await;
    bench.exec(exec(), false).unwrap();
    bench.start(exec()).await.unwrap();
    bench.vm.exit("c1", "e1", 3, false);
    bench.wait(&exec()).await;
    one_of_sixteen(&bench, &exec(), 3).await;
    bench.vm.exit("c1", "", 5, false);
    bench.wait(&init()).await;
    one_of_sixteen(&bench, &init(), 5).await;
    let topics = bench.containerd.topics(5).await;
    let expected = ["exec-added", "exec-started", "exit", "exit", "delete"];
    assert_eq!(topics, expected);
}

async fn one_of_sixteen(bench: &Bench, key: &ProcessKey, status: u32) {
    let vm = bench.vm.clone();
    let held = vm.hold_deletes();
    let deletes: Vec<_> = (0..16)
        .map(|_| tokio::spawn(Arc::clone(&bench.pod).delete(key.clone())))
        .collect();
    tokio::task::yield_now().await;
    drop(held);
    let mut statuses = Vec::new();
    for delete in deletes {
        match delete.await.unwrap() {
            Ok((_, exit)) => statuses.push(exit.status),
            Err(error) => assert_eq!(error.code(), Code::NOT_FOUND),
        }
    }
    assert_eq!(statuses, [status], "{key}");
}

#[tokio::test]
async fn a_guest_that_does_not_answer_to_sigkill_is_stopped() {
    let mut bench = Bench::running().await;
    bench
        .vm
        .refuse_signal(ErrorKind::Unavailable, "the guest did not answer Signal");
    let error = bench.pod.kill(&init(), 15, false).await.unwrap_err();
    assert_eq!(error.code(), Code::UNAVAILABLE);
    assert_eq!(bench.state(&init()), State::Running, "it may be busy");

    bench
        .vm
        .refuse_signal(ErrorKind::Unavailable, "the guest did not answer Signal");
    bench.pod.kill(&init(), 9, false).await.unwrap();
    assert_eq!(bench.wait(&init()).await.status, 137);
    bench.delete(init()).await.unwrap();
    assert_eq!(bench.containerd.topics(2).await, ["exit", "delete"]);
}

#[tokio::test]
async fn p18_execs_that_start_while_init_ends_run_or_are_refused_and_each_ends_once() {
    let mut bench = Bench::running().await;
    let keys: Vec<_> = (0..32)
        .map(|n| ProcessKey::new("c1", &format!("e{n}")))
        .collect();
    for key in &keys {
        bench.exec(key.clone(), false).unwrap();
    }
    bench.containerd.topics(keys.len()).await;
    let mut starts = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        starts.push(tokio::spawn(Arc::clone(&bench.pod).start(key.clone())));
        if n == keys.len() / 2 {
            bench.vm.exit("c1", "", 0, false);
        }
        tokio::task::yield_now().await;
    }
    let mut started = 0;
    for start in starts {
        match start.await.unwrap() {
            Ok(_) => started += 1,
            Err(error) => assert_eq!(error.code(), Code::FAILED_PRECONDITION, "{error}"),
        }
    }
    assert!(started > 0, "some began before the end");
    assert!(started < keys.len(), "some did not");
    bench.wait(&init()).await;
    for key in &keys {
        // Those that never ran can be deleted all the same.
        bench.delete(key.clone()).await.unwrap();
    }
    bench.delete(init()).await.unwrap();

    let mut running = BTreeSet::new();
    for _ in 0..started * 2 {
        let event = bench.containerd.next().await;
        let id = exec_id(&event);
        match event.topic.as_str() {
            "/tasks/exec-started" => assert!(running.insert(id)),
            "/tasks/exit" => assert!(running.remove(&id), "{id} ended before its start"),
            other => panic!("{other} before the ends of the execs"),
        }
    }
    assert!(running.is_empty(), "{running:?}");
    assert_eq!(bench.containerd.topics(2).await, ["exit", "delete"]);
}

fn exec_id(event: &containerd_shim_protos::shim::event::Envelope) -> String {
    use containerd_shim_protos::events::task::TaskExecStarted;
    let bytes = &event.event.value;
    if event.topic == "/tasks/exit" {
        TaskExit::parse_from_bytes(bytes).unwrap().id
    } else {
        TaskExecStarted::parse_from_bytes(bytes).unwrap().exec_id
    }
}
