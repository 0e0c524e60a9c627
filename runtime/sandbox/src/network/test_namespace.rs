//! A network namespace for a test, with `ip` and `tc` in it.

use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::netns::NetworkNamespace;

/// A namespace of the test's own.
#[derive(Debug)]
pub(super) struct TestNamespace(pub(super) NetworkNamespace);

impl TestNamespace {
    /// A new one, with nothing but `lo`. Without the privilege the test is skipped and says so.
    pub(super) async fn new() -> Option<Self> {
        match NetworkNamespace::open(None).unwrap().opened().await {
            Ok(namespace) => Some(Self(namespace)),
            Err(error) => {
                println!("skipped: {error}, needs root");
                None
            }
        }
    }

    /// A path under which other programs find it.
    pub(super) fn path(&self) -> String {
        let process = std::process::id();
        format!("/proc/{process}/fd/{}", self.0.as_fd().as_raw_fd())
    }

    /// Runs a program in it; what that prints.
    #[track_caller]
    pub(super) fn run(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let output = self.0.run_blocking(|| command.output()).unwrap().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Gives it an interface called `name`, up, whose other end is `peer` in `other`, up.
    #[track_caller]
    pub(super) fn connect(&self, name: &str, other: &Self, peer: &str) {
        self.run(&format!(
            "ip link add {name} type veth peer name {peer} netns {}",
            other.path()
        ));
        self.run(&format!("ip link set {name} up"));
        other.run(&format!("ip link set {peer} up"));
    }

    /// Checks that `expected` is left of connections. A program that another test is starting holds
    /// the descriptors of taps until its exec, so they may be gone a moment later.
    #[track_caller]
    pub(super) fn assert_left(&self, expected: &str) {
        for _ in 0..200 {
            if self.traces() == expected {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.traces(), expected);
    }

    /// What is left of a connection: taps and rules.
    #[track_caller]
    pub(super) fn traces(&self) -> String {
        let links = self.run("ip -o link");
        let taps = links.lines().filter(|line| line.contains("caisson"));
        let rules = self.run("tc qdisc show");
        let rules = rules.lines().filter(|line| line.contains("ingress"));
        taps.chain(rules).collect::<Vec<_>>().join("\n")
    }
}
