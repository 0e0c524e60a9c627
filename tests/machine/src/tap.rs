//! A network interface of the host whose other end is the machine's.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_short};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use caisson_control::{DeviceConfig, Limits, MAX_QUEUES, NetConfig};

use crate::builder::Device;

/// An interface that goes with this value and with the machine that has its files.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<File>,
}

impl Tap {
    /// Makes an interface with so many queue pairs and an address, for example
    /// `192.168.127.1/24`, and takes it up.
    ///
    /// # Panics
    /// Panics when that cannot be done.
    #[must_use]
    #[track_caller]
    pub fn new(queue_pairs: u8, address: &str) -> Self {
        assert!((1..=MAX_QUEUES).contains(&queue_pairs));
        let several = queue_pairs > 1;
        let (first, name) = open("", several).expect("taps can be made here");
        let mut queues = vec![first];
        for _ in 1..queue_pairs {
            let (queue, _) = open(&name, several).expect("taps can have several queues");
            queues.push(queue);
        }
        ip(&["addr", "add", address, "dev", &name]);
        ip(&["link", "set", &name, "up"]);
        Self { name, queues }
    }

    /// The host's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine's end of it.
    ///
    /// # Panics
    /// Panics when there are no descriptors left.
    #[must_use]
    pub fn device(&self) -> Device {
        let files = self.queues.iter().map(|queue| {
            let file = queue.as_fd().try_clone_to_owned();
            file.expect("there are descriptors left")
        });
        let config = NetConfig {
            mac: [2, 0xca, 0x15, 0x50, 0, 1],
            mtu: None,
            queue_pairs: u8::try_from(self.queues.len()).unwrap_or(u8::MAX),
            receive: Limits::default(),
            transmit: Limits::default(),
        };
        Device::new(DeviceConfig::Net(config), files.collect())
    }
}

/// Opens a queue of the tap called `name`, or of a new one, and returns its name.
fn open(name: &str, several: bool) -> io::Result<(File, String)> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if several {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    // SAFETY: an ifreq is made of integers; zeros are the empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags as c_short;
    let place = request.ifr_name.iter_mut();
    for (place, byte) in place.zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte as c_char;
    }
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is ours.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel ends the name with a zero inside the array.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    Ok((file, name.to_string_lossy().into_owned()))
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    let status = status.expect("iproute2 is installed");
    assert!(status.success(), "ip {}: {status}", arguments.join(" "));
}
