//! Processes from their start to their end.

use std::fs;
use std::io::Read;

use caisson_protocol::agent::Stdio;
use serde_json::json;
use ttrpc::Code;

use crate::guest::{self, cgroup_of, exec, in_guest, read_all, refusal};

#[test]
fn exit_codes_and_signals_arrive_unchanged() {
    in_guest(
        "running::exit_codes_and_signals_arrive_unchanged",
        |guest| async move {
            for code in [0, 1, 42, 127, 255] {
                let config = guest.config(&["sh", "-c", &format!("exit {code}")]);
                assert_eq!(guest.run("c", &config).await.0, code);
            }
            guest
                .create("k", &guest.config(&["sleep", "600"]), Stdio::new())
                .await
                .unwrap();
            guest.start("k", "").await.unwrap();
            guest.signal("k", "", 9, false).await.unwrap();
            assert_eq!(guest.wait("k", "").await.unwrap().exit_status, 137);
            let (code, message) = refusal(guest.signal("k", "", 9, false).await);
            assert_eq!(code, Code::NOT_FOUND);
            assert!(message.contains("process already finished"), "{message}");
            assert_eq!(
                refusal(guest.signal("k", "", 0, false).await).0,
                Code::INVALID_ARGUMENT
            );
            assert_eq!(
                refusal(guest.signal("k", "", 65, false).await).0,
                Code::INVALID_ARGUMENT
            );
            guest.delete("k", "").await.unwrap();
        },
    );
}

#[test]
fn a_trap_sees_the_signal() {
    in_guest("running::a_trap_sees_the_signal", |guest| async move {
        let streamed = guest.streamed();
        let script =
            "trap 'echo got TERM; exit 7' TERM; echo ready; while true; do sleep 0.05; done";
        let config = guest.config(&["sh", "-c", script]);
        let (number, mut output) = guest.stream();
        let stdio = Stdio {
            stdout: number,
            ..Default::default()
        };
        drop(streamed);
        guest.create("t", &config, stdio).await.unwrap();
        guest.start("t", "").await.unwrap();
        let output = tokio::task::spawn_blocking(move || {
            output.read_exact(&mut [0; 6]).unwrap();
            output
        });
        let output = output.await.unwrap();
        guest.signal("t", "", 15, false).await.unwrap();
        assert_eq!(guest.wait("t", "").await.unwrap().exit_status, 7);
        assert_eq!(read_all(output).await.unwrap(), b"got TERM\n");
        guest.delete("t", "").await.unwrap();
    });
}

#[test]
fn states_are_checked() {
    in_guest("running::states_are_checked", |guest| async move {
        let config = guest.config(&["sleep", "600"]);
        guest.create("a", &config, Stdio::new()).await.unwrap();
        assert_eq!(
            refusal(guest.create("a", &config, Stdio::new()).await).0,
            Code::ALREADY_EXISTS
        );
        assert_eq!(
            refusal(guest.create("../a", &config, Stdio::new()).await).0,
            Code::INVALID_ARGUMENT
        );
        assert_eq!(refusal(guest.start("b", "").await).0, Code::NOT_FOUND);
        guest.start("a", "").await.unwrap();
        assert_eq!(
            refusal(guest.start("a", "").await).0,
            Code::FAILED_PRECONDITION
        );
        assert_eq!(
            refusal(guest.delete("a", "").await).0,
            Code::FAILED_PRECONDITION
        );
        guest.signal("a", "", 9, true).await.unwrap();
        guest.wait("a", "").await.unwrap();
        let (first, second) = tokio::join!(guest.delete("a", ""), guest.delete("a", ""));
        let outcomes = [first.is_ok(), second.is_ok()];
        assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 1, "{outcomes:?}");
        assert_eq!(refusal(guest.delete("a", "").await).0, Code::NOT_FOUND);
        guest.assert_clean();
    });
}

#[test]
fn a_container_that_never_started_can_be_killed_or_deleted() {
    in_guest(
        "running::a_container_that_never_started_can_be_killed_or_deleted",
        |guest| async move {
            let config = guest.config(&["true"]);
            guest.create("killed", &config, Stdio::new()).await.unwrap();
            guest.signal("killed", "", 9, false).await.unwrap();
            assert_eq!(guest.wait("killed", "").await.unwrap().exit_status, 137);
            assert_eq!(
                refusal(guest.start("killed", "").await).0,
                Code::FAILED_PRECONDITION
            );
            guest.delete("killed", "").await.unwrap();
            guest
                .create("deleted", &config, Stdio::new())
                .await
                .unwrap();
            guest.delete("deleted", "").await.unwrap();
            guest.assert_clean();
            assert!(!cgroup_of("killed").exists() && !cgroup_of("deleted").exists());
        },
    );
}

#[test]
fn execs_run_in_the_container() {
    in_guest("running::execs_run_in_the_container", |guest| async move {
        guest
            .create("c", &guest.config(&["sleep", "600"]), Stdio::new())
            .await
            .unwrap();
        guest.start("c", "").await.unwrap();
        let script = "hostname; grep ^0: /proc/self/cgroup; readlink /proc/self/ns/net; \
                      cat /proc/1/comm; echo $FROM $HOME; exit 5";
        let streamed = guest.streamed();
        let mut process = exec(&["sh", "-c", script]);
        process["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [5, 7]});
        guest
            .create_exec("c", "e", &process, streamed.stdio.clone())
            .await
            .unwrap();
        let duplicate = guest.create_exec("c", "e", &process, Stdio::new()).await;
        assert_eq!(refusal(duplicate).0, Code::ALREADY_EXISTS);
        assert_eq!(
            refusal(guest.signal("c", "e", 15, false).await).0,
            Code::FAILED_PRECONDITION
        );
        guest.start("c", "e").await.unwrap();
        assert_eq!(guest.wait("c", "e").await.unwrap().exit_status, 5);
        let (stdout, stderr) = streamed.output().await;
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!(&lines[..2], ["inner", "0::/"], "{stdout}{stderr}");
        assert_ne!(
            lines[2],
            fs::read_link("/proc/self/ns/net")
                .unwrap()
                .to_str()
                .unwrap()
        );
        assert_eq!(&lines[3..], ["sleep", "exec /srv/web"]);
        assert_eq!(
            refusal(guest.signal("c", "e", 9, false).await).0,
            Code::NOT_FOUND
        );
        guest.delete("c", "e").await.unwrap();
        assert_eq!(refusal(guest.wait("c", "e").await).0, Code::NOT_FOUND);

        for (id, args, words) in [
            (
                "m1",
                ["nothing"],
                r#"exec: "nothing": executable file not found in $PATH"#,
            ),
            (
                "m2",
                ["/no/such"],
                r#"exec: "/no/such": stat /no/such: no such file or directory"#,
            ),
        ] {
            guest
                .create_exec("c", id, &exec(&args), Stdio::new())
                .await
                .unwrap();
            assert_eq!(refusal(guest.start("c", id).await).1, words);
            assert!(guest.wait("c", id).await.unwrap().exit_status >= 128);
            guest.delete("c", id).await.unwrap();
        }
        let mut nowhere = exec(&["true"]);
        nowhere["cwd"] = json!("/nowhere");
        guest
            .create_exec("c", "cwd", &nowhere, Stdio::new())
            .await
            .unwrap();
        let message = refusal(guest.start("c", "cwd").await).1;
        assert_eq!(
            message,
            r#"chdir to cwd ("/nowhere") set in config.json failed: no such file or directory"#
        );

        guest.signal("c", "", 9, false).await.unwrap();
        guest.wait("c", "").await.unwrap();
        let late = guest
            .create_exec("c", "late", &exec(&["true"]), Stdio::new())
            .await;
        assert_eq!(refusal(late).0, Code::FAILED_PRECONDITION);
        guest.delete("c", "").await.unwrap();
        guest.assert_clean();
    });
}

#[test]
fn the_end_of_init_ends_everything() {
    in_guest(
        "running::the_end_of_init_ends_everything",
        |guest| async move {
            guest
                .create(
                    "c",
                    &guest.config(&["sh", "-c", "sleep 600 & exec sleep 600"]),
                    Stdio::new(),
                )
                .await
                .unwrap();
            guest.start("c", "").await.unwrap();
            guest
                .create_exec("c", "e", &exec(&["sleep", "600"]), Stdio::new())
                .await
                .unwrap();
            guest.start("c", "e").await.unwrap();
            while guest.processes("c").await.unwrap().len() < 3 {
                tokio::task::yield_now().await;
            }
            guest.signal("c", "", 9, false).await.unwrap();
            assert_eq!(guest.wait("c", "").await.unwrap().exit_status, 137);
            assert_eq!(guest.processes("c").await.unwrap(), Vec::<u32>::new());
            assert_eq!(guest.wait("c", "e").await.unwrap().exit_status, 137);
            guest.delete("c", "").await.unwrap();
            guest.assert_clean();
        },
    );
}

#[test]
fn a_signal_for_all_reaches_every_process() {
    in_guest(
        "running::a_signal_for_all_reaches_every_process",
        |guest| async move {
            let (number, output) = guest.stream();
            let stdio = Stdio {
                stdout: number,
                ..Default::default()
            };
            let script = "trap 'echo parent; exit 0' USR1; \
                      sh -c 'trap \"echo child; exit 0\" USR1; echo up; while true; do sleep 0.05; done' & \
                      while true; do wait; done";
            guest
                .create("c", &guest.config(&["sh", "-c", script]), stdio)
                .await
                .unwrap();
            guest.start("c", "").await.unwrap();
            let mut reader = output.try_clone().unwrap();
            tokio::task::spawn_blocking(move || reader.read_exact(&mut [0; 3]).unwrap())
                .await
                .unwrap();
            guest.signal("c", "", 10, true).await.unwrap();
            assert_eq!(guest.wait("c", "").await.unwrap().exit_status, 0);
            let text = String::from_utf8(read_all(output).await.unwrap()).unwrap();
            assert!(text.contains("parent"), "{text:?}");
            guest.delete("c", "").await.unwrap();
        },
    );
}

#[test]
fn many_short_execs_all_report_their_exit() {
    in_guest(
        "running::many_short_execs_all_report_their_exit",
        |guest| async move {
            guest
                .create("c", &guest.config(&["sleep", "600"]), Stdio::new())
                .await
                .unwrap();
            guest.start("c", "").await.unwrap();
            let guest = std::rc::Rc::new(guest);
            let local = tokio::task::LocalSet::new();
            local
                .run_until(async {
                    let mut tasks = Vec::new();
                    for number in 0..100_u32 {
                        let guest = std::rc::Rc::clone(&guest);
                        tasks.push(tokio::task::spawn_local(async move {
                            let (id, code) = (format!("e{number}"), number % 100);
                            let process = exec(&["sh", "-c", &format!("exit {code}")]);
                            guest
                                .create_exec("c", &id, &process, Stdio::new())
                                .await
                                .unwrap();
                            guest.start("c", &id).await.unwrap();
                            assert_eq!(guest.wait("c", &id).await.unwrap().exit_status, code);
                            guest.delete("c", &id).await.unwrap();
                        }));
                    }
                    for task in tasks {
                        task.await.unwrap();
                    }
                })
                .await;
            guest.signal("c", "", 9, false).await.unwrap();
            guest.wait("c", "").await.unwrap();
            guest.stats("c").await.unwrap_err();
            guest.delete("c", "").await.unwrap();
            guest.assert_clean();
        },
    );
}

#[test]
fn a_request_whose_client_has_gone_is_done_to_the_end() {
    in_guest(
        "running::a_request_whose_client_has_gone_is_done_to_the_end",
        |guest| async move {
            let config = guest.config(&["sleep", "600"]);
            let request = guest.create_request("c", &config);
            let client = guest.connect().await;
            let asking =
                tokio::spawn(
                    async move { client.create_container(guest::context(), &request).await },
                );
            while !cgroup_of("c").exists() {
                assert!(!asking.is_finished());
                tokio::task::yield_now().await;
            }
            // Takes the connection along.
            asking.abort();
            let created = loop {
                match guest.start("c", "").await {
                    Ok(pid) => break pid,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            assert!(created > 1);
            guest.signal("c", "", 9, false).await.unwrap();
            guest.wait("c", "").await.unwrap();
            guest.delete("c", "").await.unwrap();
            guest.assert_clean();
        },
    );
}
