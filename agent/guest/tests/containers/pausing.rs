//! Containers that stand still.
#![allow(
    clippy::unwrap_used,
    reason = "this is test code, which the settings for tests do not see outside of test functions"
)]

use std::fs;

use caisson_protocol::agent::Stdio;
use ttrpc::Code;

use crate::guest::{Guest, cgroup_of, exec, in_guest, refusal};

async fn sleeping(guest: &Guest, id: &str) {
    let config = guest.config(&["sleep", "600"]);
    guest.create(id, &config, Stdio::new()).await.unwrap();
    guest.start(id, "").await.unwrap();
}

/// The processes of a container that the kernel has taken off its CPUs to stand still.
fn is_frozen(id: &str) -> bool {
    let events = fs::read_to_string(cgroup_of(id).join("cgroup.events")).unwrap();
    events.lines().any(|line| line == "frozen 1")
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    in_guest(
        "pausing::a_paused_container_stands_still_until_it_is_resumed",
        |guest| async move {
            sleeping(&guest, "p").await;
            assert_eq!(
                refusal(guest.resume("p").await).0,
                Code::FAILED_PRECONDITION
            );
            guest.pause("p").await.unwrap();
            assert!(is_frozen("p"));
            let (code, message) = refusal(guest.pause("p").await);
            assert_eq!(code, Code::FAILED_PRECONDITION);
            assert!(message.contains("paused already"), "{message}");
            guest.stats("p").await.unwrap();

            guest.resume("p").await.unwrap();
            assert!(!is_frozen("p"));
            guest.signal("p", "", 9, false).await.unwrap();
            guest.wait("p", "").await.unwrap();
            for result in [guest.pause("p").await, guest.resume("p").await] {
                assert_eq!(refusal(result).0, Code::FAILED_PRECONDITION);
            }
            guest.delete("p", "").await.unwrap();
            assert_eq!(refusal(guest.pause("p").await).0, Code::NOT_FOUND);
            guest.assert_clean();
        },
    );
}

#[test]
fn what_was_not_started_cannot_be_paused() {
    in_guest(
        "pausing::what_was_not_started_cannot_be_paused",
        |guest| async move {
            let config = guest.config(&["true"]);
            guest.create("c", &config, Stdio::new()).await.unwrap();
            let (code, message) = refusal(guest.pause("c").await);
            assert_eq!(code, Code::FAILED_PRECONDITION);
            assert!(message.contains("has not been started"), "{message}");
            guest.delete("c", "").await.unwrap();
        },
    );
}

#[test]
fn a_paused_container_takes_no_exec_and_goes_on_with_those_it_has() {
    in_guest(
        "pausing::a_paused_container_takes_no_exec_and_goes_on_with_those_it_has",
        |guest| async move {
            sleeping(&guest, "p").await;
            let long = exec(&["sleep", "600"]);
            guest
                .create_exec("p", "before", &long, Stdio::new())
                .await
                .unwrap();
            guest.start("p", "before").await.unwrap();
            guest
                .create_exec("p", "late", &long, Stdio::new())
                .await
                .unwrap();
            guest.pause("p").await.unwrap();
            let (code, message) = refusal(guest.start("p", "late").await);
            assert_eq!(code, Code::FAILED_PRECONDITION);
            assert!(
                message.contains("cannot exec in a paused container"),
                "{message}"
            );
            // An exec can be killed while its container stands still.
            guest.signal("p", "before", 9, false).await.unwrap();
            assert_eq!(guest.wait("p", "before").await.unwrap().exit_status, 137);
            assert!(is_frozen("p"));
            guest.resume("p").await.unwrap();
            guest
                .create_exec("p", "after", &exec(&["true"]), Stdio::new())
                .await
                .unwrap();
            guest.start("p", "after").await.unwrap();
            assert_eq!(guest.wait("p", "after").await.unwrap().exit_status, 0);
            guest.signal("p", "", 9, true).await.unwrap();
            guest.wait("p", "").await.unwrap();
            guest.delete("p", "").await.unwrap();
            guest.assert_clean();
        },
    );
}

#[test]
fn a_paused_container_can_be_killed() {
    in_guest(
        "pausing::a_paused_container_can_be_killed",
        |guest| async move {
            for all in [false, true] {
                sleeping(&guest, "p").await;
                let long = exec(&["sleep", "600"]);
                guest
                    .create_exec("p", "e", &long, Stdio::new())
                    .await
                    .unwrap();
                guest.start("p", "e").await.unwrap();
                guest.pause("p").await.unwrap();
                guest.signal("p", "", 9, all).await.unwrap();
                assert_eq!(guest.wait("p", "").await.unwrap().exit_status, 137);
                assert_eq!(guest.wait("p", "e").await.unwrap().exit_status, 137);
                guest.delete("p", "").await.unwrap();
                guest.assert_clean();
            }
        },
    );
}

#[test]
fn a_pause_that_races_with_the_end_leaves_no_container_frozen() {
    in_guest(
        "pausing::a_pause_that_races_with_the_end_leaves_no_container_frozen",
        |guest| async move {
            for _ in 0..20 {
                sleeping(&guest, "p").await;
                let (paused, killed) =
                    tokio::join!(guest.pause("p"), guest.signal("p", "", 9, false));
                killed.unwrap();
                if let Err(error) = paused {
                    let (code, _) = refusal(Err::<(), _>(error));
                    assert_eq!(code, Code::FAILED_PRECONDITION);
                }
                assert_eq!(guest.wait("p", "").await.unwrap().exit_status, 137);
                guest.delete("p", "").await.unwrap();
            }
            guest.assert_clean();
        },
    );
}
