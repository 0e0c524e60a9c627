//! What a process of a container sees and may do.

use std::fs;
use std::io::Read;

use caisson_protocol::agent::Stdio;
use serde_json::json;

use crate::guest::{cgroup_of, exec, in_guest, read_all};

#[test]
fn a_container_runs_in_namespaces_of_its_own() {
    in_guest(
        "confinement::a_container_runs_in_namespaces_of_its_own",
        |guest| async move {
            let script = "hostname; echo $$; id -u; grep ^0: /proc/self/cgroup; ip -o link | grep -c UP; \
                      readlink /proc/self/ns/net; ls /; env; grep -c . /proc/self/mountinfo >/dev/null; \
                      echo err >&2; exit 42";
            let (status, stdout, stderr) =
                guest.run("c1", &guest.config(&["sh", "-c", script])).await;
            assert_eq!(stderr, "err\n");
            assert_eq!(status, 42, "{stdout}");
            let lines: Vec<&str> = stdout.lines().collect();
            assert_eq!(&lines[..4], ["inner", "1", "0", "0::/"], "{stdout}");
            assert_eq!(
                lines[4], "1",
                "loopback is the only interface, and it is up: {stdout}"
            );
            let here = fs::read_link("/proc/self/ns/net").unwrap();
            assert_ne!(lines[5], here.to_str().unwrap());
            assert!(lines.contains(&"HOME=/root"), "{stdout}");
            assert!(!lines.contains(&"target"), "{stdout}");
            guest.assert_clean();
            assert!(!cgroup_of("c1").exists());
        },
    );
}

#[test]
fn nothing_is_inherited_from_the_agent() {
    in_guest(
        "confinement::nothing_is_inherited_from_the_agent",
        |guest| async move {
            let script = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; \
                      grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status; env";
            let config = guest.config(&["sh", "-c", script]);
            let (_, init, _) = guest.run("c", &config).await;
            guest
                .create("d", &guest.config(&["sleep", "600"]), Stdio::new())
                .await
                .unwrap();
            guest.start("d", "").await.unwrap();
            let streamed = guest.streamed();
            let mut process = exec(&["sh", "-c", script]);
            process["noNewPrivileges"] = json!(true);
            process["capabilities"] = config["process"]["capabilities"].clone();
            guest
                .create_exec("d", "e", &process, streamed.stdio.clone())
                .await
                .unwrap();
            guest.start("d", "e").await.unwrap();
            let exec = streamed.output().await.0;
            for text in [&init, &exec] {
                let lines: Vec<&str> = text.lines().collect();
                // 3 is the directory that ls reads.
                assert_eq!(&lines[..4], ["0", "1", "2", "3"], "{text}");
                assert!(lines[4].starts_with("SigBlk"), "{text}");
                for signals in &lines[4..6] {
                    assert!(signals.ends_with("0000000000000000"), "{text}");
                }
                // CAP_CHOWN is bit 0, CAP_KILL bit 5.
                for name in ["CapPrm", "CapEff", "CapBnd"] {
                    assert!(
                        text.contains(&format!("{name}:\t0000000000000021")),
                        "{text}"
                    );
                }
                assert!(text.contains("NoNewPrivs:\t1"), "{text}");
                assert!(!text.contains("CARGO"), "{text}");
            }
            guest.signal("d", "", 9, false).await.unwrap();
            guest.wait("d", "").await.unwrap();
            guest.delete("d", "").await.unwrap();
        },
    );
}

#[test]
fn seccomp_holds_for_init_and_for_execs() {
    in_guest(
        "confinement::seccomp_holds_for_init_and_for_execs",
        |guest| async move {
            for no_new_privileges in [true, false] {
                let mut config = guest.config(&[
                    "sh",
                    "-c",
                    "mkdir /tmp/x; grep Seccomp: /proc/self/status; sleep 600",
                ]);
                config["process"]["noNewPrivileges"] = json!(no_new_privileges);
                config["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                    "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
                });
                let (number, output) = guest.stream();
                let (errors_number, errors) = guest.stream();
                let stdio = Stdio {
                    stdout: number,
                    stderr: errors_number,
                    ..Default::default()
                };
                guest.create("c", &config, stdio).await.unwrap();
                guest.start("c", "").await.unwrap();
                let streamed = guest.streamed();
                let mut process =
                    exec(&["sh", "-c", "mkdir /tmp/y; grep Seccomp: /proc/self/status"]);
                process["noNewPrivileges"] = json!(no_new_privileges);
                guest
                    .create_exec("c", "e", &process, streamed.stdio.clone())
                    .await
                    .unwrap();
                guest.start("c", "e").await.unwrap();
                let (stdout, stderr) = streamed.output().await;
                assert_eq!(stdout, "Seccomp:\t2\n");
                assert!(stderr.contains("Operation not permitted"), "{stderr}");
                let mut line = [0_u8; 11];
                let mut output = output;
                let line = tokio::task::spawn_blocking(move || {
                    output.read_exact(&mut line).unwrap();
                    line
                });
                assert_eq!(&line.await.unwrap(), b"Seccomp:\t2\n");
                guest.signal("c", "", 9, false).await.unwrap();
                guest.wait("c", "").await.unwrap();
                guest.delete("c", "").await.unwrap();
                let errors = String::from_utf8(read_all(errors).await.unwrap()).unwrap();
                assert!(errors.contains("Operation not permitted"), "{errors}");
            }
        },
    );
}

#[test]
fn a_user_who_is_not_root_can_use_its_streams_and_directory() {
    in_guest(
        "confinement::a_user_who_is_not_root_can_use_its_streams_and_directory",
        |guest| async move {
            let mut config = guest.config(&["sh", "-c", "id -u; id -g; id -G; pwd; ls -nd /made/here | head -c 19; echo again >/dev/stdout; echo two >/dev/stderr"]);
            config["process"]["user"] =
                json!({"uid": 33, "gid": 34, "additionalGids": [34, 5], "umask": 63});
            config["process"]["cwd"] = json!("/made/here");
            config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
            let (status, stdout, stderr) = guest.run("c", &config).await;
            assert_eq!(
                stdout,
                "33\n34\n34 5\n/made/here\ndrwxr-xr-x    2 0  again\n"
            );
            assert_eq!(stderr, "two\n");
            assert_eq!(status, 0);
        },
    );
}

#[test]
fn mounts_devices_and_paths_are_as_asked() {
    in_guest(
        "confinement::mounts_devices_and_paths_are_as_asked",
        |guest| async move {
            let shared = guest.rootfs.parent().unwrap().join("shared");
            fs::create_dir(&shared).unwrap();
            fs::write(shared.join("file"), "data").unwrap();
            let mut config = guest.config(&[
                "sh",
                "-c",
                "cat /rw/file; echo new >/rw/new && echo wrote; echo x >/ro/x || echo refused; \
             echo x >/proc/sys/kernel/hostname || echo readonly; wc -c </proc/meminfo; \
             ls -l /dev/null /dev/fuse | wc -l; touch /root/x || echo rootro; cat /single; \
             echo; stat -c '%A %u %g' /deep/zero; head -c 3 /deep/zero | wc -c",
            ]);
            config["root"]["readonly"] = json!(true);
            config["linux"]["maskedPaths"] = json!(["/proc/meminfo", "/proc/no_such_file"]);
            fs::create_dir_all(guest.rootfs.join("rw")).unwrap();
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/rw", "type": "bind", "source": shared, "options": ["rbind", "rw"]}));
            mounts.push(json!({"destination": "/ro", "type": "bind", "source": shared, "options": ["rbind", "ro"]}));
            mounts.push(json!({"destination": "/single", "type": "bind", "source": shared.join("file"), "options": ["bind", "ro"]}));
            config["linux"]["devices"] = json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
                {"path": "/deep/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 416, "uid": 0, "gid": 0},
            ]);
            config["linux"]["rootfsPropagation"] = json!("rprivate");
            let (_, stdout, stderr) = guest.run("c", &config).await;
            assert_eq!(
                stdout, "datawrote\nrefused\nreadonly\n0\n2\nrootro\ndata\ncrw-r----- 0 0\n3\n",
                "{stderr}"
            );
            assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "new\n");
        },
    );
}

#[test]
fn only_allowed_devices_can_be_opened() {
    in_guest(
        "confinement::only_allowed_devices_can_be_opened",
        |guest| async move {
            let script = "(: </dev/fuse) 2>&1; cat /dev/null && echo null; head -c 1 /dev/zero | wc -c; \
                      (: </dev/ptmx) && echo ptmx";
            let mut config = guest.config(&["sh", "-c", script]);
            config["linux"]["devices"] = json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438},
            ]);
            config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
            let (_, stdout, _) = guest.run("denied", &config).await;
            assert!(
                stdout.contains("/dev/fuse: Operation not permitted"),
                "{stdout}"
            );
            assert!(stdout.ends_with("null\n1\nptmx\n"), "{stdout}");

            config["linux"]["resources"]["devices"]
                .as_array_mut()
                .unwrap()
                .push(
                    json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}),
                );
            let (_, stdout, _) = guest.run("allowed", &config).await;
            assert!(!stdout.contains("Operation not permitted"), "{stdout}");
            guest.assert_clean();
        },
    );
}
