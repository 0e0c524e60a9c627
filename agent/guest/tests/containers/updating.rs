//! Limits of containers that run.

use std::fs;

use caisson_protocol::agent::Stdio;
use serde_json::json;
use ttrpc::Code;

use crate::guest::{cgroup_of, has_controller, in_guest, refusal};

#[test]
fn limits_of_a_running_container_change_and_the_others_stay() {
    in_guest(
        "updating::limits_of_a_running_container_change_and_the_others_stay",
        |guest| async move {
            if !has_controller("pids") {
                return println!("skipped: this machine's cgroup v2 has no pids controller");
            }
            let mut config = guest.config(&["sleep", "600"]);
            config["linux"]["resources"] = json!({"pids": {"limit": 20}});
            guest.create("u", &config, Stdio::new()).await.unwrap();
            guest.start("u", "").await.unwrap();
            let value = |file: &str| {
                let text = fs::read_to_string(cgroup_of("u").join(file)).unwrap();
                text.trim().to_owned()
            };
            assert_eq!(value("pids.max"), "20");
            guest
                .update("u", &json!({"pids": {"limit": 30}}))
                .await
                .unwrap();
            assert_eq!(value("pids.max"), "30");
            guest.update("u", &json!({})).await.unwrap();
            assert_eq!(value("pids.max"), "30");
            guest.pause("u").await.unwrap();
            guest
                .update("u", &json!({"pids": {"limit": -1}}))
                .await
                .unwrap();
            assert_eq!(value("pids.max"), "max");
            assert_eq!(guest.stats("u").await.unwrap().pids.limit, u64::MAX);

            // The first is not there, the second is and refuses; the limit before them was written.
            for unified in [json!({"pids.nonsense": "1"}), json!({"pids.max": "many"})] {
                let resources = json!({"pids": {"limit": 7}, "unified": unified});
                let (code, message) = refusal(guest.update("u", &resources).await);
                assert_eq!(code, Code::INVALID_ARGUMENT);
                assert!(
                    message.contains("linux.resources.unified[\"pids."),
                    "{message}"
                );
                assert_eq!(value("pids.max"), "max", "all or nothing");
            }
            let (code, message) = refusal(guest.update("u", &json!({"pids": 7})).await);
            assert_eq!(code, Code::INVALID_ARGUMENT);
            assert!(message.contains("resources object"), "{message}");

            guest.signal("u", "", 9, false).await.unwrap();
            guest.wait("u", "").await.unwrap();
            assert_eq!(
                refusal(guest.update("u", &json!({})).await).0,
                Code::FAILED_PRECONDITION
            );
            guest.delete("u", "").await.unwrap();
            assert_eq!(
                refusal(guest.update("u", &json!({})).await).0,
                Code::NOT_FOUND
            );
        },
    );
}
