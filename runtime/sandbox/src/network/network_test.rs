use std::path::Path;

use super::test_namespace::TestNamespace;
use super::{Network, undo_recorded};
use crate::netns::NetworkNamespace;

/// A pod's namespace with `eth0`, that of the other end, and a state directory.
struct Bench {
    pod: TestNamespace,
    host: TestNamespace,
    state: tempfile::TempDir,
}

impl Bench {
    /// Without the privilege the test is skipped and says so.
    async fn new() -> Option<Self> {
        let (pod, host) = (TestNamespace::new().await?, TestNamespace::new().await?);
        pod.connect("eth0", &host, "veth0");
        let state = tempfile::tempdir().unwrap();
        Some(Self { pod, host, state })
    }
}

/// A pod's network in `namespace`, which others have filled.
async fn network(namespace: &TestNamespace, state_dir: &Path) -> Network {
    let path = namespace.path();
    let opening = NetworkNamespace::open(Some(path.clone().into())).unwrap();
    let opened = opening.opened().await.unwrap();
    Network::new(opened, Some(path.as_ref()), state_dir).unwrap()
}

#[tokio::test]
async fn interfaces_are_connected_once_and_all_of_it_is_undone() {
    let Some(Bench { pod, host, state }) = Bench::new().await else {
        return;
    };
    let network = network(&pod, state.path()).await;
    let devices = network.connect().await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].config.mtu, Some(1500));
    assert!(network.connect().await.unwrap().is_empty());

    pod.connect("net1", &host, "veth1");
    let new = network.connect().await.unwrap();
    assert_eq!(new.len(), 1);
    let shown = pod.traces();
    assert!(
        shown.contains("caisson0") && shown.contains("caisson1"),
        "{shown}"
    );

    drop((devices, new));
    network.disconnect().await;
    pod.assert_left("");
}

#[tokio::test]
async fn a_handle_that_is_dropped_undoes_it_too() {
    let Some(Bench {
        pod,
        host: _host,
        state,
    }) = Bench::new().await
    else {
        return;
    };
    let network = network(&pod, state.path()).await;
    drop(network.connect().await.unwrap());
    assert!(pod.traces().contains("ingress"), "{}", pod.traces());
    drop(network);
    pod.assert_left("");
}

#[tokio::test]
async fn when_one_interface_cannot_be_connected_none_is() {
    let Some(Bench { pod, host, state }) = Bench::new().await else {
        return;
    };
    pod.connect("net1", &host, "veth1");
    pod.run("tc qdisc add dev net1 ingress");
    let before = pod.traces();
    let network = network(&pod, state.path()).await;
    let error = network.connect().await.unwrap_err();
    assert!(error.to_string().contains("net1"), "{error}");
    pod.assert_left(&before);
}

#[tokio::test]
async fn what_a_dead_shim_left_is_undone_from_its_record() {
    let Some(Bench {
        pod,
        host: _host,
        state,
    }) = Bench::new().await
    else {
        return;
    };
    let network = network(&pod, state.path()).await;
    drop(network.connect().await.unwrap());
    undo_recorded(state.path()).unwrap();
    pod.assert_left("");
    // Without a record, or with one of a namespace that is gone, there is nothing to do.
    undo_recorded(Path::new("/no/such/place")).unwrap();
    std::fs::write(state.path().join("netns"), "/no/such/netns").unwrap();
    undo_recorded(state.path()).unwrap();
}
