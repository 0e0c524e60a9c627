//! Volumes that the host updates.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "this is test code, which the settings for tests do not see outside of test functions"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use caisson_protocol::agent::{CreateContainerRequest, UpdateVolumeRequest, UpdatedVolume};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::guest::{Guest, context, in_guest, refusal};

/// Exchanges the version of a volume as the kubelet does it.
fn exchange(volume: &Path, version: &str, text: &str) {
    fs::create_dir_all(volume.join(version)).unwrap();
    fs::write(volume.join(version).join("key"), text).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

/// A container with `volume` at /config, and the number of that mount.
fn with_volume(guest: &Guest, volume: &Path, script: &str) -> (Value, u32) {
    let mut config = guest.config(&["sh", "-c", script]);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/config", "type": "bind", "source": volume, "options": ["rbind", "ro"]}),
    );
    let number = u32::try_from(mounts.len() - 1).unwrap();
    (config, number)
}

fn version(mount: u32, version: &str) -> UpdatedVolume {
    UpdatedVolume {
        mount,
        version: version.to_owned(),
        names: vec!["key".to_owned()],
        ..Default::default()
    }
}

/// What a shell in the container "c" prints.
async fn printed(guest: &Guest, exec: &str, script: &str) -> String {
    let process = guest.config(&["sh", "-c", script])["process"].take();
    let streamed = guest.streamed();
    let stdio = streamed.stdio.clone();
    guest.create_exec("c", exec, &process, stdio).await.unwrap();
    guest.start("c", exec).await.unwrap();
    guest.wait("c", exec).await.unwrap();
    streamed.output().await.0
}

async fn update(guest: &Guest, id: &str, volume: UpdatedVolume) -> ttrpc::Result<()> {
    let request = UpdateVolumeRequest {
        container_id: id.to_owned(),
        volume: Some(volume).into(),
        ..Default::default()
    };
    let updated = guest.client.update_volume(context(), &request).await;
    updated.map(drop)
}

#[test]
fn a_volume_is_kept_until_its_container_is_deleted() {
    in_guest(
        "volumes::a_volume_is_kept_until_its_container_is_deleted",
        |guest| async move {
            let host = tempfile::tempdir().unwrap();
            exchange(host.path(), "..1", "before");
            symlink("..data/key", host.path().join("key")).unwrap();
            let (config, mount) = with_volume(&guest, host.path(), "sleep 1000");
            let request = CreateContainerRequest {
                updated: vec![version(mount, "..1")],
                ..guest.create_request("c", &config)
            };
            let created = guest.client.create_container(context(), &request).await;
            created.unwrap();
            guest.start("c", "").await.unwrap();
            let seen = "cat /config/key; touch /config/new 2>/dev/null && echo writable";
            exchange(host.path(), "..2", "after");
            assert_eq!(printed(&guest, "first", seen).await, "before");
            update(&guest, "c", version(mount, "..2")).await.unwrap();
            assert_eq!(printed(&guest, "second", seen).await, "after");

            let other = update(&guest, "c", version(0, "..2")).await;
            assert_eq!(refusal(other).0, Code::FAILED_PRECONDITION);
            guest.signal("c", "", 9, false).await.unwrap();
            guest.wait("c", "").await.unwrap();
            guest.delete("c", "").await.unwrap();
            let gone = update(&guest, "c", version(mount, "..2")).await;
            assert_eq!(refusal(gone).0, Code::NOT_FOUND);
            guest.assert_clean();
        },
    );
}

#[test]
fn a_volume_that_is_too_large_to_keep_is_the_hosts_own() {
    in_guest(
        "volumes::a_volume_that_is_too_large_to_keep_is_the_hosts_own",
        |guest| async move {
            let host = tempfile::tempdir().unwrap();
            exchange(host.path(), "..1", &"x".repeat((4 << 20) + 1));
            symlink("..data/key", host.path().join("key")).unwrap();
            let (config, mount) = with_volume(&guest, host.path(), "wc -c </config/key");
            let streamed = guest.streamed();
            let request = CreateContainerRequest {
                stdio: Some(streamed.stdio.clone()).into(),
                updated: vec![version(mount, "..1")],
                ..guest.create_request("c", &config)
            };
            let created = guest.client.create_container(context(), &request).await;
            created.unwrap();
            let (code, message) = refusal(update(&guest, "c", version(mount, "..2")).await);
            assert_eq!(code, Code::FAILED_PRECONDITION);
            assert!(message.contains("4194304 bytes"), "{message}");
            guest.start("c", "").await.unwrap();
            assert_eq!(guest.wait("c", "").await.unwrap().exit_status, 0);
            assert_eq!(streamed.output().await.0.trim(), "4194305");
            guest.delete("c", "").await.unwrap();
            guest.assert_clean();
        },
    );
}
