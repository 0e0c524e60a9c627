//! Processes on terminals.

use std::io::{Read, Write};

use caisson_protocol::agent::Stdio;
use serde_json::json;

use crate::guest::{exec, in_guest, read_all};

#[test]
fn a_terminal_has_a_size_and_carries_both_directions() {
    in_guest(
        "terminals::a_terminal_has_a_size_and_carries_both_directions",
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
    in_guest(
        "terminals::an_exec_with_a_terminal_controls_it",
        |guest| async move {
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
        },
    );
}
