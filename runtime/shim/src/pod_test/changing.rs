//! Pausing, changing limits, measuring.

use std::sync::Arc;
use std::time::Duration;

use caisson_sandbox::ErrorKind;
use oci_spec::runtime::LinuxResources;
use ttrpc::Code;

use super::{Bench, exec, init};
use crate::error::TaskError;
use crate::pod::Pod;
use crate::process::State;

const MIB: u64 = 1 << 20;

impl Bench {
    async fn pause(&self) -> Result<(), TaskError> {
        Arc::clone(&self.pod).pause("c1".into()).await
    }

    async fn resume(&self) -> Result<(), TaskError> {
        Arc::clone(&self.pod).resume("c1".into()).await
    }

    async fn update(&self, resources: &str) -> Result<(), TaskError> {
        update(&self.pod, "c1", resources).await
    }

    fn growth(&self) -> Vec<String> {
        let calls = self.vm.calls().into_iter();
        calls
            .filter_map(|call| call.strip_prefix("resize machine ").map(str::to_owned))
            .collect()
    }
}

async fn update(pod: &Arc<Pod>, id: &str, resources: &str) -> Result<(), TaskError> {
    let resources: LinuxResources = serde_json::from_str(resources).unwrap();
    Arc::clone(pod).update(id.into(), resources).await
}

fn memory(mib: u64) -> String {
    format!(r#"{{"memory":{{"limit":{}}}}}"#, mib * MIB)
}

#[tokio::test]
async fn a_pause_and_its_end_are_told_in_order() {
    let mut bench = Bench::running().await;
    bench.exec(exec(), false).unwrap();
    bench.start(exec()).await.unwrap();
    bench.containerd.topics(2).await;
    bench.pause().await.unwrap();
    assert_eq!(bench.state(&init()), State::Paused);
    assert_eq!(bench.state(&exec()), State::Paused);
    assert_eq!(bench.pod.processes("c1").unwrap().len(), 2);
    bench.pause().await.unwrap_err();
    bench.resume().await.unwrap();
    assert_eq!(bench.state(&init()), State::Running);
    assert_eq!(bench.state(&exec()), State::Running);
    bench.resume().await.unwrap_err();
    assert_eq!(bench.containerd.topics(2).await, ["paused", "resumed"]);
    bench.pod.publisher().flush(Duration::from_secs(5)).await;
    assert!(bench.containerd.is_quiet(), "only what was done is told");
}

#[tokio::test]
async fn a_pause_that_the_guest_refuses_changes_nothing() {
    let mut bench = Bench::running().await;
    let words = "a process waits for a device";
    bench.vm.refuse_change(ErrorKind::Internal, words);
    let error = bench.pause().await.unwrap_err();
    assert_eq!(error.to_string(), words);
    assert_eq!(bench.state(&init()), State::Running);
    bench.pause().await.unwrap();
    bench.vm.refuse_change(ErrorKind::Internal, words);
    bench.resume().await.unwrap_err();
    assert_eq!(bench.state(&init()), State::Paused);
    bench.resume().await.unwrap();
    assert_eq!(bench.containerd.topics(2).await, ["paused", "resumed"]);
}

#[tokio::test]
async fn a_paused_container_can_be_killed_and_deleted() {
    let mut bench = Bench::running().await;
    bench.pause().await.unwrap();
    let error = bench.delete(init()).await.unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    assert!(error.to_string().contains("paused"), "{error}");
    bench.pod.kill(&init(), 9, false).await.unwrap();
    assert_eq!(bench.wait(&init()).await.status, 137);
    assert!(matches!(bench.state(&init()), State::Stopped(_)));
    bench.delete(init()).await.unwrap();
    assert_eq!(
        bench.containerd.topics(3).await,
        ["paused", "exit", "delete"]
    );
}

#[tokio::test]
async fn the_end_of_the_machine_ends_a_paused_container() {
    let bench = Bench::running().await;
    bench.pause().await.unwrap();
    bench.vm.die("kernel panic: Attempted to kill init!");
    assert_eq!(bench.wait(&init()).await.status, 137);
    assert!(matches!(bench.state(&init()), State::Stopped(_)));
}

/// The end is known to the guest before the shim hears of it.
#[tokio::test]
async fn a_container_that_ends_while_it_is_being_paused_has_one_end() {
    let mut bench = Bench::running().await;
    let vm = bench.vm.clone();
    let held = vm.hold_changes();
    let pausing = tokio::spawn(Arc::clone(&bench.pod).pause("c1".into()));
    while !vm.calls().contains(&"pause c1/".to_owned()) {
        tokio::task::yield_now().await;
    }
    vm.refuse_change(ErrorKind::FailedPrecondition, "the container ended");
    vm.exit("c1", "", 3, false);
    drop(held);
    pausing.await.unwrap().unwrap_err();
    assert_eq!(bench.wait(&init()).await.status, 3);
    assert_eq!(bench.containerd.topics(1).await, ["exit"]);
}

#[tokio::test]
async fn a_pause_that_hangs_holds_up_no_other_call() {
    let bench = Bench::running().await;
    let vm = bench.vm.clone();
    let _held = vm.hold_changes();
    let _pausing = tokio::spawn(Arc::clone(&bench.pod).pause("c1".into()));
    while !vm.calls().contains(&"pause c1/".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.state(&init()), State::Running);
    bench.pod.kill(&init(), 15, false).await.unwrap();
    bench.exec(exec(), false).unwrap();
    bench.start(exec()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_is_no_statistics_but_an_error() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    let vm = bench.vm.clone();
    let _held = vm.hold_changes();
    let began = tokio::time::Instant::now();
    let error = bench.pod.stats("c1").await.unwrap_err();
    assert_eq!(error.code(), Code::UNAVAILABLE);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "containerd waits 2 s"
    );
}

#[tokio::test]
async fn the_machine_grows_before_the_limit_and_shrinks_back() {
    let bench = Bench::running().await;
    bench.update(r#"{"pids":{"limit":9}}"#).await.unwrap();
    assert_eq!(bench.growth(), [""; 0], "nothing that needs more");
    bench.update(&memory(1024)).await.unwrap();
    let quota = r#"{"cpu":{"quota":250000,"period":100000}}"#;
    bench.update(quota).await.unwrap();
    let calls = bench.vm.calls();
    let of = |call: &str| calls.iter().position(|made| made == call).unwrap();
    assert!(of("resize machine 3 1136") < calls.len() - 1, "{calls:?}");
    bench.update(&memory(64)).await.unwrap();
    bench.update(r#"{"cpu":{"quota":-1}}"#).await.unwrap();
    assert_eq!(bench.growth(), ["1 1136", "3 1136", "3 256", "1 256"]);
}

#[tokio::test]
async fn containers_of_a_pod_need_the_sum_of_their_limits() {
    let bench = Bench::running().await;
    let member =
        r#"{"io.kubernetes.cri.sandbox-id":"c1","io.kubernetes.cri.container-type":"container"}"#;
    let create = Arc::clone(&bench.pod).create(bench.request("c2", member));
    create.await.unwrap();
    bench.update(&memory(512)).await.unwrap();
    update(&bench.pod, "c2", &memory(512)).await.unwrap();
    assert_eq!(bench.growth(), ["1 616", "1 1136"]);
}

#[tokio::test]
async fn a_machine_that_cannot_grow_fails_the_update_and_changes_nothing() {
    let bench = Bench::running().await;
    let words = "it can have 1: set `max_vcpus`";
    bench.vm.refuse_growth(ErrorKind::FailedPrecondition, words);
    let error = bench.update(&memory(1024)).await.unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    assert_eq!(error.to_string(), words);
    assert_eq!(bench.vm.done(), [""; 0], "the guest was not asked");
    // What was refused is not remembered.
    bench.update(r#"{"pids":{"limit":9}}"#).await.unwrap();
    assert_eq!(bench.growth(), ["1 1136"]);
}

/// A container that was created with more than the machine can have was told so in the log only.
#[tokio::test]
async fn a_machine_that_was_too_small_before_fails_no_other_update() {
    let bench = Bench::running().await;
    let member =
        r#"{"io.kubernetes.cri.sandbox-id":"c1","io.kubernetes.cri.container-type":"container"}"#;
    let mut request = bench.request("c2", member);
    let config = format!(
        r#"{{"ociVersion":"1.0.2","annotations":{member},"linux":{{"resources":{}}}}}"#,
        memory(4096)
    );
    request.bundle = bench.bundle("c2", &config);
    let words = "it can have 256";
    bench.vm.refuse_growth(ErrorKind::FailedPrecondition, words);
    Arc::clone(&bench.pod).create(request).await.unwrap();
    bench.vm.refuse_growth(ErrorKind::FailedPrecondition, words);
    bench.update(r#"{"pids":{"limit":9}}"#).await.unwrap();
    assert_eq!(bench.vm.done(), ["update Some(9) c1/"]);
    bench.vm.refuse_growth(ErrorKind::FailedPrecondition, words);
    bench.update(&memory(64)).await.unwrap_err();
}

#[tokio::test]
async fn a_limit_that_the_guest_refuses_takes_the_growth_back() {
    let bench = Bench::running().await;
    let words = "linux.resources.memory.limit: the kernel refuses";
    bench.vm.refuse_change(ErrorKind::InvalidArgument, words);
    let error = bench.update(&memory(1024)).await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert_eq!(error.to_string(), words);
    assert_eq!(bench.growth(), ["1 1136", "1 256"]);
}
