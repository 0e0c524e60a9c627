//! Containers that share the processes of another, as in a pod with `shareProcessNamespace`.

use caisson_protocol::agent::{CreateContainerRequest, Stdio};
use ttrpc::Code;

use crate::guest::{context, in_guest, refusal};

#[test]
fn a_container_shares_the_processes_of_another_and_ends_by_itself() {
    in_guest(
        "sharing::a_container_shares_the_processes_of_another_and_ends_by_itself",
        |guest| async move {
            let pause = guest.config(&["sleep", "1000"]);
            guest.create("pod", &pause, Stdio::new()).await.unwrap();
            guest.start("pod", "").await.unwrap();

            let sharing = |id: &str, args: &[&str], stdio: Stdio| CreateContainerRequest {
                process_namespace_of: "pod".to_owned(),
                stdio: Some(stdio).into(),
                ..guest.create_request(id, &guest.config(args))
            };
            let request = sharing(
                "one",
                &["sh", "-c", "sleep 1001 & sleep 1002"],
                Stdio::new(),
            );
            let created = guest.client.create_container(context(), &request).await;
            created.unwrap();
            guest.start("one", "").await.unwrap();

            let streamed = guest.streamed();
            let script = "for end in $(seq 100); do grep -q 1001 /proc/[0-9]*/cmdline && break; \
                          sleep 0.1; done; cat /proc/1/cmdline /proc/[0-9]*/cmdline | tr '\\0' ' '";
            let request = sharing("two", &["sh", "-c", script], streamed.stdio.clone());
            let created = guest.client.create_container(context(), &request).await;
            created.unwrap();
            guest.start("two", "").await.unwrap();
            assert_eq!(guest.wait("two", "").await.unwrap().exit_status, 0);
            let (seen, _) = streamed.output().await;
            assert!(seen.starts_with("sleep 1000 "), "{seen}");
            assert!(seen.contains("sleep 1001"), "{seen}");
            guest.delete("two", "").await.unwrap();

            // Its end is that of what it started, although the namespace goes on.
            guest.signal("one", "", 9, false).await.unwrap();
            assert_eq!(guest.wait("one", "").await.unwrap().exit_status, 137);
            assert_eq!(guest.processes("one").await.unwrap(), [0; 0]);
            assert_eq!(guest.processes("pod").await.unwrap().len(), 1);
            guest.delete("one", "").await.unwrap();

            // Without the other there is nothing to share.
            guest.signal("pod", "", 9, false).await.unwrap();
            guest.wait("pod", "").await.unwrap();
            let request = sharing("late", &["true"], Stdio::new());
            let late = guest.client.create_container(context(), &request).await;
            let (code, message) = refusal(late);
            assert_eq!(code, Code::FAILED_PRECONDITION);
            assert!(message.contains("container pod has ended"), "{message}");
            guest.delete("pod", "").await.unwrap();
        },
    );
}

#[test]
fn containers_share_the_processes_of_a_pod_that_no_container_holds() {
    in_guest(
        "sharing::containers_share_the_processes_of_a_pod_that_no_container_holds",
        |guest| async move {
            let in_pod = |id: &str, args: &[&str], stdio: Stdio| CreateContainerRequest {
                in_pod_processes: true,
                stdio: Some(stdio).into(),
                ..guest.create_request(id, &guest.config(args))
            };
            let run = async |id: &str, script: &str| {
                let streamed = guest.streamed();
                let request = in_pod(id, &["sh", "-c", script], streamed.stdio.clone());
                let created = guest.client.create_container(context(), &request).await;
                created.unwrap();
                guest.start(id, "").await.unwrap();
                assert_eq!(guest.wait(id, "").await.unwrap().exit_status, 0);
                let (seen, _) = streamed.output().await;
                guest.delete(id, "").await.unwrap();
                seen
            };
            let request = in_pod("one", &["sleep", "1001"], Stdio::new());
            let created = guest.client.create_container(context(), &request).await;
            created.unwrap();
            guest.start("one", "").await.unwrap();

            // Process 1 is nobody's, and shows nothing of the guest.
            let script = "cat /proc/1/comm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; \
                          ls /proc/1/root/ 2>/dev/null | wc -l";
            let seen = run("two", script).await;
            assert!(seen.starts_with("pod\n"), "{seen}");
            assert!(seen.contains("sleep 1001"), "{seen}");
            assert!(seen.trim_end().ends_with('0'), "{seen}");

            // An orphan is collected, nobody ends process 1, and one container's end is no other's.
            let script = "(true & true) ; kill -TERM 1; kill -KILL 1; sh -c 'true & exit 0'";
            run("three", script).await;
            guest.signal("one", "", 9, false).await.unwrap();
            assert_eq!(guest.wait("one", "").await.unwrap().exit_status, 137);
            guest.delete("one", "").await.unwrap();
            let seen = run("four", "cat /proc/1/comm; set -- /proc/[0-9]*; echo $#").await;
            // Itself and process 1.
            assert_eq!(seen, "pod\n2\n");
        },
    );
}
