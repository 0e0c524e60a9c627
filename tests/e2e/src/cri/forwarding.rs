//! Ports of the host that lead into a pod.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A port that crictl forwards, until this goes out of scope.
#[derive(Debug)]
pub struct Forwarding {
    crictl: Child,
    /// Open, because crictl ends when it has more to say and cannot.
    output: BufReader<ChildStdout>,
}

impl Forwarding {
    /// Runs `command` and waits until it says that it forwards.
    pub(super) fn start(mut command: Command) -> Self {
        let mut crictl = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("crictl can be run");
        let output = crictl.stdout.take().expect("it is a pipe");
        let mut forwarding = Self {
            crictl,
            output: BufReader::new(output),
        };
        let mut said = String::new();
        let _ = forwarding.output.read_line(&mut said);
        // If not, it has written why to standard error, which is ours.
        assert!(said.starts_with("Forwarding from"), "{command:?}: {said}");
        forwarding
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.crictl.kill();
        let _ = self.crictl.wait();
    }
}
