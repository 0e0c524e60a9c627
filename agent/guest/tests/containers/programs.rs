//! Programs that cannot run, and what runs before them.

use std::fs;

use caisson_protocol::agent::Stdio;
use serde_json::json;
use ttrpc::Code;

use crate::guest::{cgroup_of, in_guest, refusal};

#[test]
fn programs_that_cannot_run_fail_at_creation_in_runcs_words() {
    in_guest(
        "programs::programs_that_cannot_run_fail_at_creation_in_runcs_words",
        |guest| async move {
            fs::write(guest.rootfs.join("etc/text"), "no program").unwrap();
            for (program, words) in [
                (
                    "nothing",
                    r#"exec: "nothing": executable file not found in $PATH"#,
                ),
                (
                    "/no/such",
                    r#"exec: "/no/such": stat /no/such: no such file or directory"#,
                ),
                ("/etc/text", r#"exec: "/etc/text": permission denied"#),
                ("/etc", r#"exec: "/etc": is a directory"#),
            ] {
                let result = guest
                    .create("bad", &guest.config(&[program]), Stdio::new())
                    .await;
                assert_eq!(refusal(result), (Code::INVALID_ARGUMENT, words.to_owned()));
                assert_eq!(refusal(guest.wait("bad", "").await).0, Code::NOT_FOUND);
            }
            guest.assert_clean();
            assert!(!cgroup_of("bad").exists());

            // The program is looked for where the container will see it, mounts included.
            let tool = guest.rootfs.parent().unwrap().join("tool");
            fs::copy(guest.rootfs.join("bin/busybox"), &tool).unwrap();
            let mut config = guest.config(&["/sbin/init", "--help"]);
            config["process"]["args"] = json!(["/mounted/sh", "-c", "exit 3"]);
            config["mounts"].as_array_mut().unwrap().push(
                json!({"destination": "/mounted/sh", "source": tool, "options": ["rbind", "ro"]}),
            );
            assert_eq!(guest.run("mounted", &config).await.0, 3);
        },
    );
}

#[test]
fn a_broken_program_fails_at_the_start() {
    in_guest(
        "programs::a_broken_program_fails_at_the_start",
        |guest| async move {
            use std::os::unix::fs::PermissionsExt;
            for (name, text, words) in [
                ("script", "#!/no/interpreter\n", "no such file or directory"),
                (
                    "foreign",
                    "\x7fELF garbage of another kind",
                    "exec format error",
                ),
            ] {
                let file = guest.rootfs.join("bin").join(name);
                fs::write(&file, text).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
                guest
                    .create(name, &guest.config(&[name]), Stdio::new())
                    .await
                    .unwrap();
                let (code, message) = refusal(guest.start(name, "").await);
                assert_eq!(code, Code::INVALID_ARGUMENT);
                assert!(
                    message.contains(words) && message.contains(name),
                    "{message}"
                );
                assert_eq!(guest.wait(name, "").await.unwrap().exit_status, 255);
                guest.delete(name, "").await.unwrap();
            }
            guest.assert_clean();
        },
    );
}

#[test]
fn what_the_guest_cannot_do_leaves_nothing_behind() {
    in_guest(
        "programs::what_the_guest_cannot_do_leaves_nothing_behind",
        |guest| async move {
            let mut users = guest.config(&["true"]);
            users["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "user"}));
            assert_eq!(
                refusal(guest.create("u", &users, Stdio::new()).await).0,
                Code::INVALID_ARGUMENT
            );
            let mut root = guest.config(&["true"]);
            root["root"]["path"] = json!("/no/such/root");
            let message = refusal(guest.create("r", &root, Stdio::new()).await).1;
            assert!(message.contains("/no/such/root"), "{message}");
            let mut mount = guest.config(&["true"]);
            mount["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/m", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
        );
            let (code, message) = refusal(guest.create("m", &mount, Stdio::new()).await);
            assert_eq!(code, Code::INTERNAL);
            assert!(message.contains("No such file"), "{message}");
            // This machine's hierarchy has no controllers, as a guest kernel without them.
            let mut limit = guest.config(&["true"]);
            limit["linux"]["resources"] = json!({"pids": {"limit": 10}});
            if !cgroup_of("").join("pids.max").exists() {
                let message = refusal(guest.create("l", &limit, Stdio::new()).await).1;
                assert!(message.contains("pids.max"), "{message}");
            }
            guest.assert_clean();
            for id in ["u", "r", "m", "l"] {
                assert!(!cgroup_of(id).exists(), "{id}");
            }
        },
    );
}

#[test]
fn start_hooks_run_in_the_container_before_its_program() {
    in_guest(
        "programs::start_hooks_run_in_the_container_before_its_program",
        |guest| async move {
            let mut config = guest.config(&["cat", "/dev/shm/hook"]);
            let script = "hostname >/dev/shm/hook; echo $$ >>/dev/shm/hook; cat >>/dev/shm/hook";
            config["hooks"] = json!({"startContainer": [{
                "path": "/bin/sh",
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin"],
            }]});
            let (status, stdout, stderr) = guest.run("h", &config).await;
            assert_eq!((status, stderr.as_str()), (0, ""));
            let lines: Vec<&str> = stdout.lines().collect();
            assert_eq!(lines[0], "inner");
            // The container's first process is 1; the hook is its child.
            assert_ne!(lines[1], "1");
            let state: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
            assert_eq!((&state["id"], &state["pid"]), (&json!("h"), &json!(1)));
            assert_eq!(state["status"], "created");
            guest.assert_clean();
        },
    );
}

#[test]
fn a_start_hook_that_fails_fails_the_start() {
    in_guest(
        "programs::a_start_hook_that_fails_fails_the_start",
        |guest| async move {
            let mut config = guest.config(&["true"]);
            config["hooks"] = json!({"startContainer": [{
                "path": "/bin/sh",
                "args": ["sh", "-c", "echo no device >&2; exit 3"],
            }]});
            guest.create("h", &config, Stdio::new()).await.unwrap();
            let (code, message) = refusal(guest.start("h", "").await);
            assert_eq!(code, Code::FAILED_PRECONDITION);
            assert!(
                message.contains("startContainer hook /bin/sh") && message.ends_with(": no device"),
                "{message}"
            );
            guest.wait("h", "").await.unwrap();
            guest.delete("h", "").await.unwrap();
            guest.assert_clean();
        },
    );
}
