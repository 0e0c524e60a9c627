//! Connections to and from guests whose vsock is the host kernel's.

use std::collections::BTreeMap;
use std::fs::File;

use caisson_machine_tests::{GUEST_CID, PATIENCE, vsock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The ports of the host to which guests connect. They are open before the guest starts.
#[derive(Debug)]
pub(crate) struct Listeners(BTreeMap<u32, File>);

impl Listeners {
    /// Listens on these ports.
    pub(crate) fn on(ports: &[u32]) -> Self {
        let listen = |port: &u32| {
            let listener = vsock::listen(*port);
            (
                *port,
                listener.unwrap_or_else(|error| panic!("vsock port {port}: {error}")),
            )
        };
        Self(ports.iter().map(listen).collect())
    }

    /// Waits for a connection; `last_words` is asked when none comes.
    pub(crate) fn accept(&self, port: u32, last_words: impl FnOnce() -> String) -> File {
        let listener = self.0.get(&port).expect("one of the ports above");
        wait_for(listener, last_words);
        vsock::accept(listener).expect("the guest is there")
    }
}

/// Connects to a port of the guest.
pub(crate) fn connect(port: u32) -> File {
    let connection = vsock::connect(GUEST_CID, port);
    connection.unwrap_or_else(|error| panic!("the guest's port {port}: {error}"))
}

/// Waits until something can be read.
pub(crate) fn wait_for(file: &impl std::os::fd::AsFd, last_words: impl FnOnce() -> String) {
    let patience = Timespec {
        tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&patience));
    if !matches!(ready, Ok(1)) {
        panic!("the guest says nothing ({ready:?}): {}", last_words());
    }
}
