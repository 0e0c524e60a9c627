//! Network namespaces as CNI makes them, and what can be seen of them.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps them.
const PLACE: &str = "/run/netns";

/// A network namespace, gone with this value.
#[derive(Debug)]
pub struct NetworkNamespace(String);

impl NetworkNamespace {
    /// Makes one with a loopback interface that is up.
    ///
    /// # Panics
    /// Panics when that cannot be done.
    #[must_use]
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let _ = run(&format!("ip netns add {name}"));
        let namespace = Self(name.to_owned());
        let _ = namespace.run("ip link set lo up");
        namespace
    }

    /// Where it can be joined.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(PLACE).join(&self.0)
    }

    /// What `ctr run` wants to hear after `--with-ns`.
    #[must_use]
    pub fn of_ctr(&self) -> String {
        format!("network:{}", self.path().display())
    }

    /// Gives it an interface, up, whose other end is `peer` in the machine's own namespace, up.
    ///
    /// # Panics
    /// Panics when that cannot be done.
    #[track_caller]
    pub fn connect(&self, interface: &str, peer: &str) {
        let netns = &self.0;
        let _ = run(&format!(
            "ip link add {peer} type veth peer name {interface} netns {netns}"
        ));
        let _ = run(&format!("ip link set {peer} up"));
        let _ = self.run(&format!("ip link set {interface} up"));
    }

    /// Runs a program in it; what that prints.
    ///
    /// # Panics
    /// Panics when the program fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.0))
    }

    /// Does something in it, on a thread of its own.
    ///
    /// # Panics
    /// Panics when `work` does.
    #[track_caller]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let namespace = fs::File::open(self.path()).expect("the namespace is there");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).expect("root may enter it");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).expect("it works")
    }

    /// Interfaces and rules in it that a pod's machine has made; empty when it is as before.
    ///
    /// # Panics
    /// Panics when it cannot be looked into.
    #[must_use]
    #[track_caller]
    pub fn traces(&self) -> String {
        let links = self.run("ip -o link");
        let taps = links.lines().filter(|line| line.contains("caisson"));
        let rules = self.run("tc qdisc show");
        let rules = rules.lines().filter(|line| line.contains("ingress"));
        taps.chain(rules).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.0])
            .status();
        // What the first call of ip makes for all.
        if fs::read_dir(PLACE).is_ok_and(|mut all| all.next().is_none()) {
            let _ = Command::new("umount").arg(PLACE).status();
            let _ = fs::remove_dir(PLACE);
        }
    }
}

/// Runs a program; what it prints.
///
/// # Panics
/// Panics when it fails.
#[track_caller]
pub fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
