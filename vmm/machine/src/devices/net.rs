//! Network device (virtio 1.3 §5.1) in front of a tap.
//!
//! ```text
//!   guest ── transmit queue ──▶ Transmitter ──▶ writev ──▶ tap queue ──▶ the host's network
//!   guest ◀── receive queue ─── Receiver ◀───── readv ◀─── tap queue ◀── the host's network
//!   guest ── control queue ───▶ Command: number of queue pairs, offloads
//! ```
//!
//! Each queue pair has a queue of the tap of its own. Packets go between guest memory and the tap
//! without a copy, each with the header of virtio in front: the kernel reads and writes that header
//! itself, checks what the guest puts there, and cuts or completes packets where one of the two
//! sides cannot.

mod command;
mod direction;
mod features;
mod receive;
mod running;
mod tap;
mod transmit;

use std::io;
use std::os::fd::OwnedFd;

use caisson_control::{MAX_QUEUES, NetConfig, RefusalKind};

use self::direction::Direction;
use self::features::LargeUdp;
use self::running::RunningNet;
use self::tap::{Link, Tap, TapError};
use crate::virtio::config::SharedConfig;
use crate::virtio::device::{ActivateResult, Activation, Device, DeviceFault, DeviceKind};

/// Bytes of `struct virtio_net_hdr` with `num_buffers` (virtio 1.3 §5.1.6).
const HEADER_SIZE: usize = 12;

/// Bytes of an Ethernet header, without which there is no packet.
const ETHERNET_HEADER: usize = 14;

/// Largest packet with its header: virtio 1.3 §5.1.6.3.1 has drivers make room for this many bytes
/// when the device leaves packets uncut.
const MAX_PACKET: usize = 65562;

/// Packets served in one call. The largest ones together are 4 MiB, which takes about a
/// millisecond; then it is the turn of other devices.
const PACKETS_PER_CALL: usize = 64;

/// Size of the receive and transmit queues. Linux's driver posts about 1.5 KiB per descriptor of
/// the receive queue at first, so 256 hold six packets of the largest kind.
const QUEUE_SIZE: u16 = 256;

/// Size of the control queue. Linux sends one command at a time; what is in the queue is served in
/// one call, and the host's kernel may take milliseconds for each.
const CONTROL_QUEUE_SIZE: u16 = 16;

/// Places in the configuration space (virtio 1.3 §5.1.4).
const CONFIG_STATUS: usize = 6;

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// Why a network interface cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// The hardware address is that of a group, or none.
    #[error(
        "the hardware address is no interface's: its first byte must be even, and not all zero"
    )]
    Mac,
    /// The MTU is out of range (virtio 1.3 §5.1.4.1).
    #[error("an MTU of {0} is not between 68 and 65535")]
    Mtu(u16),
    /// The number of queue pairs is out of range.
    #[error("{0} queue pairs: there can be 1 to {MAX_QUEUES}")]
    QueuePairs(u8),
    /// Not as many files as queue pairs.
    #[error("{pairs} queue pairs need one file each and {files} came with them")]
    Files {
        /// Queue pairs.
        pairs: u8,
        /// Files.
        files: usize,
    },
    /// A file cannot be used.
    #[error("queue pair {pair}: {source}")]
    Tap {
        /// Of which queue pair, from 0 on.
        pair: usize,
        /// What is wrong with it.
        source: TapError,
    },
    /// No descriptors left.
    #[error("making the timer of a limit: {0}")]
    Timer(#[from] io::Error),
}

impl NetError {
    /// The kind of refusal for the shim.
    pub(crate) fn kind(&self) -> RefusalKind {
        match self {
            Self::Mac | Self::Mtu(_) | Self::QueuePairs(_) | Self::Files { .. } => {
                RefusalKind::Invalid
            }
            Self::Tap { .. } => RefusalKind::Device,
            Self::Timer(_) => RefusalKind::Resources,
        }
    }
}

/// The network device before activation.
pub(crate) struct Net {
    config: SharedConfig,
    features: u64,
    queue_sizes: Vec<u16>,
    /// The queues of the tap, one for each queue pair.
    links: Vec<Box<dyn Link>>,
    /// Which of them packets come through.
    attached: Vec<bool>,
    /// Whether the tap was deleted.
    link_lost: bool,
    /// From the tap to the driver, and from the driver to the tap.
    receive: Direction,
    transmit: Direction,
    /// How many queue pairs the driver uses; one until it says otherwise (virtio 1.3 §5.1.6.5.5).
    active_pairs: usize,
    /// The `GUEST_` features in use, once the driver has said so.
    guest_offloads: Option<u64>,
    /// Chains completed in earlier activations.
    requests: u64,
}

impl Net {
    /// Makes the device that `config` describes of the queues of one tap.
    ///
    /// # Errors
    /// See [`NetError`].
    pub(crate) fn new(config: &NetConfig, files: Vec<OwnedFd>) -> Result<Self, NetError> {
        check(config, files.len())?;
        let multi_queue = config.queue_pairs > 1;
        let mut taps: Vec<Tap> = Vec::with_capacity(files.len());
        let mut large_udp = LargeUdp::Fragments;
        for (pair, file) in files.into_iter().enumerate() {
            let wrong = |source| NetError::Tap { pair, source };
            let tap = Tap::new(file, multi_queue).map_err(wrong)?;
            match taps.first() {
                Some(first) if first.name() != tap.name() => {
                    return Err(wrong(TapError::OtherTap {
                        first: first.name().to_owned(),
                        other: tap.name().to_owned(),
                    }));
                }
                Some(_) => {}
                None => large_udp = tap.probe().map_err(wrong)?,
            }
            taps.push(tap);
        }
        let links = taps.into_iter().map(|tap| Box::new(tap) as Box<dyn Link>);
        Ok(Self::with_links(config, links.collect(), large_udp)?)
    }

    /// Makes the device of one link for each queue pair.
    fn with_links(
        config: &NetConfig,
        links: Vec<Box<dyn Link>>,
        large_udp: LargeUdp,
    ) -> io::Result<Self> {
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * links.len()];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        Ok(Self {
            config: configuration(config),
            features: features::on_offer(large_udp, config.mtu.is_some(), links.len() > 1),
            queue_sizes,
            attached: vec![true; links.len()],
            links,
            link_lost: false,
            receive: Direction::new(&config.receive)?,
            transmit: Direction::new(&config.transmit)?,
            active_pairs: 1,
            guest_offloads: None,
            requests: 0,
        })
    }

    /// Tells the tap what it may leave undone for a driver with these `GUEST_` features.
    fn set_offloads(&self, guest_offloads: u64) -> Result<(), DeviceFault> {
        let offloads = features::tap_offloads(guest_offloads);
        match self.links.first() {
            Some(link) if !self.link_lost => link
                .set_offloads(offloads)
                .map_err(host("setting the offloads of the tap")),
            _ => Ok(()),
        }
    }

    /// Uses the first `count` queue pairs. No packet may come for the others (virtio 1.3
    /// §5.1.6.5.5), so the tap must not send any there.
    fn set_active_pairs(&mut self, count: usize) -> Result<(), DeviceFault> {
        if self.links.len() > 1 && !self.link_lost {
            let links = self.links.iter().zip(&mut self.attached).enumerate();
            for (pair, (link, attached)) in links {
                let wanted = pair < count;
                if *attached != wanted {
                    link.set_attached(wanted)
                        .map_err(host("attaching a queue of the tap"))?;
                    *attached = wanted;
                }
            }
        }
        self.active_pairs = count;
        Ok(())
    }

    /// The tap is gone for good: the link is down.
    fn lose_link(&mut self) {
        self.link_lost = true;
        self.config.set(CONFIG_STATUS, &0_u16.to_le_bytes());
    }
}

/// Checks what does not depend on the files themselves.
fn check(config: &NetConfig, files: usize) -> Result<(), NetError> {
    let group = config.mac.first().is_none_or(|byte| byte & 1 != 0);
    if group || config.mac == [0; 6] {
        return Err(NetError::Mac);
    }
    if let Some(mtu) = config.mtu.filter(|mtu| *mtu < 68) {
        return Err(NetError::Mtu(mtu));
    }
    let pairs = config.queue_pairs;
    if !(1..=MAX_QUEUES).contains(&pairs) {
        return Err(NetError::QueuePairs(pairs));
    }
    if files != usize::from(pairs) {
        return Err(NetError::Files { pairs, files });
    }
    Ok(())
}

/// The configuration space (virtio 1.3 §5.1.4): hardware address, status, queue pairs, MTU.
fn configuration(config: &NetConfig) -> SharedConfig {
    let mut bytes = config.mac.to_vec();
    bytes.extend(LINK_UP.to_le_bytes());
    bytes.extend(u16::from(config.queue_pairs).to_le_bytes());
    bytes.extend(config.mtu.unwrap_or(0).to_le_bytes());
    SharedConfig::new(bytes)
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> DeviceFault {
    move |source| DeviceFault::Host { what, source }
}

impl Device for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn config(&self) -> SharedConfig {
        self.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> ActivateResult {
        RunningNet::start(self, activation)
    }

    fn reset(&mut self) {
        self.active_pairs = 1;
        self.guest_offloads = None;
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod tests;

#[cfg(test)]
pub(crate) use self::tap::tests as real_taps;

#[cfg(test)]
pub(crate) mod fuzz {
    //! For the fuzz target.
    pub(crate) use super::tests::between_sockets;
}
