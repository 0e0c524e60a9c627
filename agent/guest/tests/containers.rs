//! Containers, made for real on this machine: what the agent does with the kernel.

mod guest;
#[path = "containers/pausing.rs"]
mod pausing;
#[path = "containers/updating.rs"]
mod updating;

use std::fs;
use std::io::{Read, Write};

use caisson_protocol::agent::Stdio;
use guest::{cgroup_of, exec, in_guest, read_all, refusal};
use serde_json::json;
use ttrpc::Code;

#[test]
fn a_container_runs_in_namespaces_of_its_own() {
    in_guest(
        "a_container_runs_in_namespaces_of_its_own",
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
fn exit_codes_and_signals_arrive_unchanged() {
    in_guest(
        "exit_codes_and_signals_arrive_unchanged",
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
    in_guest("a_trap_sees_the_signal", |guest| async move {
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
fn input_comes_back_with_its_end() {
    in_guest("input_comes_back_with_its_end", |guest| async move {
        let mut streamed = guest.streamed();
        guest
            .create("cat", &guest.config(&["cat"]), streamed.stdio.clone())
            .await
            .unwrap();
        guest.start("cat", "").await.unwrap();
        let mut stdin = streamed.stdin.try_clone().unwrap();
        let data: Vec<u8> = (0..3_000_000_u32)
            .map(|n| n.wrapping_mul(2_654_435_761) as u8)
            .collect();
        let expected = data.clone();
        tokio::task::spawn_blocking(move || {
            stdin.write_all(&data).unwrap();
            stdin.shutdown(std::net::Shutdown::Write).unwrap();
        })
        .await
        .unwrap();
        guest
            .client
            .close_stdin(guest::context(), &guest::process("cat", ""))
            .await
            .unwrap();
        assert_eq!(guest.wait("cat", "").await.unwrap().exit_status, 0);
        assert!((&mut streamed.stdout).await.unwrap() == expected);
        guest.delete("cat", "").await.unwrap();
    });
}

#[test]
fn the_last_byte_of_a_short_process_is_never_lost() {
    in_guest(
        "the_last_byte_of_a_short_process_is_never_lost",
        |guest| async move {
            for run in 0..50 {
                let id = format!("s{run}");
                let (status, stdout, _) = guest.run(&id, &guest.config(&["echo", &id])).await;
                assert_eq!((status, stdout), (0, format!("{id}\n")));
            }
            guest.assert_clean();
        },
    );
}

#[test]
fn programs_that_cannot_run_fail_at_creation_in_runcs_words() {
    in_guest(
        "programs_that_cannot_run_fail_at_creation_in_runcs_words",
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
    in_guest("a_broken_program_fails_at_the_start", |guest| async move {
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
    });
}

#[test]
fn states_are_checked() {
    in_guest("states_are_checked", |guest| async move {
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
        "a_container_that_never_started_can_be_killed_or_deleted",
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
    in_guest("execs_run_in_the_container", |guest| async move {
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
    in_guest("the_end_of_init_ends_everything", |guest| async move {
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
    });
}

#[test]
fn a_signal_for_all_reaches_every_process() {
    in_guest(
        "a_signal_for_all_reaches_every_process",
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
fn a_terminal_has_a_size_and_carries_both_directions() {
    in_guest(
        "a_terminal_has_a_size_and_carries_both_directions",
        |guest| async move {
            let mut config = guest.config(&[
                "sh",
                "-c",
                "stty size; tty; read line; echo \"<$line>\"; stty size",
            ]);
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"width": 101, "height": 37});
            let (stdin, mut keyboard) = guest.stream();
            let (stdout, screen) = guest.stream();
            let stdio = Stdio {
                stdin,
                stdout,
                ..Default::default()
            };
            guest.create("c", &config, stdio.clone()).await.unwrap();
            guest.start("c", "").await.unwrap();
            let mut reader = screen.try_clone().unwrap();
            let first = tokio::task::spawn_blocking(move || {
                let mut text = [0_u8; 7];
                reader.read_exact(&mut text).unwrap();
                text
            });
            assert_eq!(&first.await.unwrap(), b"37 101\r");
            guest.resize("c", "", 90, 20).await.unwrap();
            keyboard.write_all(b"hello\n").unwrap();
            assert_eq!(guest.wait("c", "").await.unwrap().exit_status, 0);
            let text = String::from_utf8(read_all(screen).await.unwrap()).unwrap();
            assert!(text.contains("/dev/pts/0"), "{text:?}");
            assert!(text.ends_with("<hello>\r\n20 90\r\n"), "{text:?}");
            guest.delete("c", "").await.unwrap();
        },
    );
}

#[test]
fn an_exec_with_a_terminal_controls_it() {
    in_guest("an_exec_with_a_terminal_controls_it", |guest| async move {
        guest
            .create("c", &guest.config(&["sleep", "600"]), Stdio::new())
            .await
            .unwrap();
        guest.start("c", "").await.unwrap();
        let (stdin, mut keyboard) = guest.stream();
        let (stdout, screen) = guest.stream();
        let mut process = exec(&["sh", "-c", "stty size; echo up >/dev/tty; sleep 600"]);
        process["terminal"] = json!(true);
        let stdio = Stdio {
            stdin,
            stdout,
            ..Default::default()
        };
        guest.create_exec("c", "e", &process, stdio).await.unwrap();
        guest.resize("c", "e", 66, 11).await.unwrap();
        guest.start("c", "e").await.unwrap();
        let mut reader = screen.try_clone().unwrap();
        let first = tokio::task::spawn_blocking(move || {
            let mut text = [0_u8; 11];
            reader.read_exact(&mut text).unwrap();
            text
        });
        assert_eq!(&first.await.unwrap(), b"11 66\r\nup\r\n");
        // Control-C goes to the foreground of the terminal.
        keyboard.write_all(&[3]).unwrap();
        assert_eq!(guest.wait("c", "e").await.unwrap().exit_status, 130);
        guest.signal("c", "", 9, false).await.unwrap();
        guest.wait("c", "").await.unwrap();
        guest.delete("c", "").await.unwrap();
    });
}

#[test]
fn nothing_is_inherited_from_the_agent() {
    in_guest("nothing_is_inherited_from_the_agent", |guest| async move {
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
    });
}

#[test]
fn seccomp_holds_for_init_and_for_execs() {
    in_guest("seccomp_holds_for_init_and_for_execs", |guest| async move {
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
            let mut process = exec(&["sh", "-c", "mkdir /tmp/y; grep Seccomp: /proc/self/status"]);
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
    });
}

#[test]
fn a_user_who_is_not_root_can_use_its_streams_and_directory() {
    in_guest(
        "a_user_who_is_not_root_can_use_its_streams_and_directory",
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
        "mounts_devices_and_paths_are_as_asked",
        |guest| async move {
            let shared = guest.rootfs.parent().unwrap().join("shared");
            fs::create_dir(&shared).unwrap();
            fs::write(shared.join("file"), "data").unwrap();
            let mut config = guest.config(&[
                "sh",
                "-c",
                "cat /rw/file; echo new >/rw/new && echo wrote; echo x >/ro/x || echo refused; \
             echo x >/proc/sys/kernel/hostname || echo readonly; wc -c </proc/meminfo; \
             ls -l /dev/null /dev/fuse | wc -l; touch /root/x || echo rootro; cat /single",
            ]);
            config["root"]["readonly"] = json!(true);
            config["linux"]["maskedPaths"] = json!(["/proc/meminfo", "/proc/no_such_file"]);
            fs::create_dir_all(guest.rootfs.join("rw")).unwrap();
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/rw", "type": "bind", "source": shared, "options": ["rbind", "rw"]}));
            mounts.push(json!({"destination": "/ro", "type": "bind", "source": shared, "options": ["rbind", "ro"]}));
            mounts.push(json!({"destination": "/single", "type": "bind", "source": shared.join("file"), "options": ["bind", "ro"]}));
            config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}]);
            config["linux"]["rootfsPropagation"] = json!("rprivate");
            let (_, stdout, stderr) = guest.run("c", &config).await;
            assert_eq!(
                stdout, "datawrote\nrefused\nreadonly\n0\n2\nrootro\ndata",
                "{stderr}"
            );
            assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "new\n");
        },
    );
}

#[test]
fn what_the_guest_cannot_do_leaves_nothing_behind() {
    in_guest(
        "what_the_guest_cannot_do_leaves_nothing_behind",
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
fn many_short_execs_all_report_their_exit() {
    in_guest(
        "many_short_execs_all_report_their_exit",
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
fn a_quarter_of_a_gigabyte_comes_out_unchanged() {
    in_guest(
        "a_quarter_of_a_gigabyte_comes_out_unchanged",
        |guest| async move {
            const TOTAL: usize = 256 << 20;
            // Lines of 64 KiB, so that a block that is lost, doubled or moved is seen.
            let script =
                "i=0; while [ $i -lt 4096 ]; do head -c 65535 /dev/zero; echo; i=$((i+1)); done";
            let (number, mut output) = guest.stream();
            let stdio = Stdio {
                stdout: number,
                ..Default::default()
            };
            guest
                .create("c", &guest.config(&["sh", "-c", script]), stdio)
                .await
                .unwrap();
            guest.start("c", "").await.unwrap();
            let reader = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0_u8; 1 << 20];
                let mut seen = 0;
                loop {
                    let count = output.read(&mut buffer).unwrap();
                    if count == 0 {
                        return seen;
                    }
                    for byte in &buffer[..count] {
                        seen += 1;
                        assert_eq!(*byte == b'\n', seen % 65536 == 0, "at {seen}");
                    }
                }
            });
            assert_eq!(guest.wait("c", "").await.unwrap().exit_status, 0);
            assert_eq!(reader.await.unwrap(), TOTAL);
            guest.delete("c", "").await.unwrap();
        },
    );
}

#[test]
fn a_host_that_does_not_read_stalls_only_that_process() {
    in_guest(
        "a_host_that_does_not_read_stalls_only_that_process",
        |guest| async move {
            let (number, unread) = guest.stream();
            let stdio = Stdio {
                stdout: number,
                ..Default::default()
            };
            guest
                .create("c", &guest.config(&["cat", "/dev/zero"]), stdio)
                .await
                .unwrap();
            guest.start("c", "").await.unwrap();
            for round in 0..5 {
                let id = format!("e{round}");
                let streamed = guest.streamed();
                guest
                    .create_exec("c", &id, &exec(&["echo", &id]), streamed.stdio.clone())
                    .await
                    .unwrap();
                guest.start("c", &id).await.unwrap();
                assert_eq!(guest.wait("c", &id).await.unwrap().exit_status, 0);
                assert_eq!(streamed.output().await.0, format!("{id}\n"));
                guest.delete("c", &id).await.unwrap();
            }
            assert!(guest.stats("c").await.unwrap().cpu.usage_usec > 0);
            guest.signal("c", "", 9, false).await.unwrap();
            assert_eq!(guest.wait("c", "").await.unwrap().exit_status, 137);
            drop(unread);
            guest.delete("c", "").await.unwrap();
            guest.assert_clean();
        },
    );
}

#[test]
fn a_process_left_behind_keeps_the_stream_open() {
    in_guest(
        "a_process_left_behind_keeps_the_stream_open",
        |guest| async move {
            guest
                .create("c", &guest.config(&["sleep", "600"]), Stdio::new())
                .await
                .unwrap();
            guest.start("c", "").await.unwrap();
            let (number, mut output) = guest.stream();
            let stdio = Stdio {
                stdout: number,
                ..Default::default()
            };
            let script = "(read line </tmp/go; echo late) & echo early";
            fs::remove_file(guest.rootfs.join("tmp/go")).ok();
            rustix::fs::mkfifoat(
                rustix::fs::CWD,
                guest.rootfs.join("tmp/go"),
                rustix::fs::Mode::RWXU,
            )
            .unwrap();
            guest
                .create_exec("c", "e", &exec(&["sh", "-c", script]), stdio)
                .await
                .unwrap();
            guest.start("c", "e").await.unwrap();
            assert_eq!(guest.wait("c", "e").await.unwrap().exit_status, 0);
            guest.delete("c", "e").await.unwrap();
            let fifo = guest.rootfs.join("tmp/go");
            let text = tokio::task::spawn_blocking(move || {
                let mut early = [0_u8; 6];
                output.read_exact(&mut early).unwrap();
                assert_eq!(&early, b"early\n");
                fs::write(fifo, "go\n").unwrap();
                let mut rest = String::new();
                output.read_to_string(&mut rest).unwrap();
                rest
            });
            assert_eq!(text.await.unwrap(), "late\n");
            guest.signal("c", "", 9, false).await.unwrap();
            guest.wait("c", "").await.unwrap();
            guest.delete("c", "").await.unwrap();
        },
    );
}

#[test]
fn a_request_whose_client_has_gone_is_done_to_the_end() {
    in_guest(
        "a_request_whose_client_has_gone_is_done_to_the_end",
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

#[test]
fn only_allowed_devices_can_be_opened() {
    in_guest("only_allowed_devices_can_be_opened", |guest| async move {
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
            .push(json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}));
        let (_, stdout, _) = guest.run("allowed", &config).await;
        assert!(!stdout.contains("Operation not permitted"), "{stdout}");
        guest.assert_clean();
    });
}

#[test]
fn start_hooks_run_in_the_container_before_its_program() {
    in_guest(
        "start_hooks_run_in_the_container_before_its_program",
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
        "a_start_hook_that_fails_fails_the_start",
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
