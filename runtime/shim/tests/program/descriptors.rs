//! Descriptors of the shim: as many as it may have, and what happens when that is not enough.

use std::fs;

use containerd_shim_protos::api;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::{Bench, CONFIG, context, root};

/// What it allows itself at most.
const MOST: u64 = 65536;

#[test]
fn a_shim_takes_the_descriptors_that_its_hard_limit_allows() {
    if !root() {
        return;
    }
    let ours = getrlimit(Resource::Nofile);
    let low = Rlimit {
        current: Some(1024),
        ..ours
    };
    setrlimit(Resource::Nofile, low).unwrap();
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", shim.pid().unwrap())).unwrap();
    setrlimit(Resource::Nofile, ours).unwrap();
    let mut lines = limits.lines();
    let line = lines.find(|line| line.starts_with("Max open files"));
    let soft = line.unwrap().split_whitespace().nth(3).unwrap();
    let expected = ours.maximum.unwrap_or(u64::MAX).min(MOST);
    assert_eq!(soft, expected.to_string());
}

#[tokio::test]
async fn a_shim_without_descriptors_takes_connections_again_when_there_are_some() {
    if !root() {
        return;
    }
    let bench = Bench::new("c1", CONFIG);
    let shim = bench.start();
    let first = shim.client().await;
    let mut connect = api::ConnectRequest::new();
    connect.id = "c1".into();
    first.connect(context(), &connect).await.unwrap();
    let pid = shim.pid().unwrap();
    let limit = |current| {
        let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(1024),
        };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    };
    limit(1);
    let second = shim.client().await;
    let waiting = tokio::spawn({
        let connect = connect.clone();
        async move { second.connect(context(), &connect).await }
    });
    for _ in 0..20 {
        first.connect(context(), &connect).await.unwrap();
    }
    assert!(!waiting.is_finished(), "there is no descriptor for it");
    limit(1024);
    waiting.await.unwrap().unwrap();
}
