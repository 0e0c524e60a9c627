//! Volumes of containers, and what the agent is told of those that the kubelet updates.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use caisson_sandbox::{CreateContainer, Sandbox};
use serde_json::json;

use crate::pod::{Pod, in_pod};
use crate::{init, soon};

/// What the fake agent has noted of volumes.
fn notes(pod: &Pod) -> Vec<String> {
    let notes = fs::read_to_string(pod.program("notes")).unwrap_or_default();
    notes.lines().map(str::to_owned).collect()
}

/// Waits until the fake agent has noted `count` lines.
async fn noted(pod: &Pod, count: usize) -> Vec<String> {
    soon(async {
        while notes(pod).len() < count {
            tokio::task::yield_now().await;
        }
        notes(pod)
    })
    .await
}

async fn start(pod: &Pod) -> std::sync::Arc<Sandbox> {
    let mut config = pod.config("");
    let notes = pod.program("notes");
    config.kernel_parameters += &format!(" notes={}", notes.display());
    soon(Sandbox::start(&config, pod.options())).await.unwrap()
}

/// A container with `volume` at its second mount.
fn container(pod: &Pod, id: &str, volume: &Path, access: &str) -> CreateContainer {
    let mut request = pod.container(id, "sleep");
    request.spec = serde_json::from_value(json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["sleep"], "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/config", "type": "bind", "source": volume, "options": ["rbind", access]},
        ],
    }))
    .unwrap();
    request
}

/// Exchanges the version of a volume as the kubelet does it.
fn exchange(volume: &Path, version: &str) {
    fs::create_dir(volume.join(version)).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

fn config_map(pod: &Pod) -> std::path::PathBuf {
    let volume = pod.program("volume");
    fs::create_dir(&volume).unwrap();
    exchange(&volume, "..1");
    symlink("..data/key", volume.join("key")).unwrap();
    volume
}

#[test]
fn the_agent_is_told_of_every_version_of_a_volume_that_the_kubelet_updates() {
    in_pod(async |pod| {
        let sandbox = start(pod).await;
        let volume = config_map(pod);
        for id in ["one", "two"] {
            let request = container(pod, id, &volume, "ro");
            soon(sandbox.create_container(request)).await.unwrap();
        }
        let created = ["created one 1 ..1 key", "created two 1 ..1 key"];
        assert_eq!(notes(pod), created);

        exchange(&volume, "..2");
        let mut told = noted(pod, 4).await.split_off(2);
        told.sort();
        assert_eq!(told, ["updated one 1 ..2 key", "updated two 1 ..2 key"]);

        soon(sandbox.signal(&init("one"), 9, false)).await.unwrap();
        soon(sandbox.delete_process(&init("one"))).await.unwrap();
        symlink("..data/new", volume.join("new")).unwrap();
        let told = noted(pod, 5).await.split_off(4);
        assert_eq!(told, ["updated two 1 ..2 key,new"]);

        // The guest does not keep this one, and is not told of any other.
        exchange(&volume, "..large");
        let told = noted(pod, 6).await.split_off(5);
        assert_eq!(told, ["updated two 1 ..large key,new"]);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}

#[test]
fn the_agent_is_not_told_of_volumes_that_the_guest_may_write() {
    in_pod(async |pod| {
        let sandbox = start(pod).await;
        let volume = config_map(pod);
        let request = container(pod, "writes", &volume, "rw");
        soon(sandbox.create_container(request)).await.unwrap();
        // It gets the mount of the other, which is writable.
        let request = container(pod, "reads", &volume, "ro");
        soon(sandbox.create_container(request)).await.unwrap();
        assert_eq!(notes(pod), Vec::<String>::new());
        let volumes = pod.state_dir().join("shared/.volumes");
        assert_eq!(fs::read_dir(&volumes).unwrap().count(), 1);
        for id in ["writes", "reads"] {
            assert_eq!(fs::read_dir(&volumes).unwrap().count(), 1);
            soon(sandbox.signal(&init(id), 9, false)).await.unwrap();
            soon(sandbox.delete_process(&init(id))).await.unwrap();
        }
        assert_eq!(fs::read_dir(&volumes).unwrap().count(), 0);
        soon(sandbox.stop()).await;
        pod.assert_nothing_left();
    });
}
