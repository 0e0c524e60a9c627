//! Standard streams.

use std::fs;
use std::io::{Read, Write};

use caisson_protocol::agent::Stdio;

use crate::guest::{self, exec, in_guest};

#[test]
fn input_comes_back_with_its_end() {
    in_guest(
        "streams::input_comes_back_with_its_end",
        |guest| async move {
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
        },
    );
}

#[test]
fn the_last_byte_of_a_short_process_is_never_lost() {
    in_guest(
        "streams::the_last_byte_of_a_short_process_is_never_lost",
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
fn a_quarter_of_a_gigabyte_comes_out_unchanged() {
    in_guest(
        "streams::a_quarter_of_a_gigabyte_comes_out_unchanged",
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
        "streams::a_host_that_does_not_read_stalls_only_that_process",
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
        "streams::a_process_left_behind_keeps_the_stream_open",
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
