use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libc::{
    IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_UP, IFF_VNET_HDR, TUNGETVNETHDRSZ, TUNSETIFF,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

use super::{Link, Tap, TapError, empty_request, ioctl};
use crate::devices::net::features::{guest_offloads, tap_offloads};

/// What a tap for the device is made with.
pub(crate) const GOOD: i32 = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

/// Runs a test on a thread with a network of its own, or says why it cannot.
pub(crate) fn with_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: changes the network of this thread and nothing of the process.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            let error = io::Error::last_os_error();
            eprintln!("skipped: a network of its own needs CAP_SYS_ADMIN: {error}");
            return;
        }
        if let Err(error) = open() {
            eprintln!("skipped: /dev/net/tun: {error}");
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn open() -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    file.map(OwnedFd::from)
}

/// Makes an interface, or another queue of one.
pub(crate) fn make(name: &str, flags: i32) -> OwnedFd {
    let file = open().unwrap();
    let mut request = empty_request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads an interface request from behind the pointer.
    unsafe { ioctl(file.as_fd(), TUNSETIFF, &request) }.unwrap();
    file
}

/// The number of an interface.
fn index(name: &str) -> u32 {
    rustix::net::netdevice::name_to_index(
        rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap(),
        name,
    )
    .unwrap()
}

/// Sends a message about an interface to the kernel: RTM_NEWLINK or RTM_DELLINK.
fn link_message(name: &str, kind: u16, flags: i32, change: i32) {
    let socket = rustix::net::socket(
        AddressFamily::NETLINK,
        SocketType::RAW,
        // NETLINK_ROUTE has number 0.
        None,
    )
    .unwrap();
    // Request with an acknowledgement; any kind of address family and device.
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(5u16.to_ne_bytes());
    message.extend([0; 12]);
    message.extend(index(name).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(change.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty()).unwrap();
    let mut answer = [0; 256];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
    assert_eq!(answer[16..20], [0; 4], "the kernel refused");
}

/// Takes the link of an interface up or down.
pub(in crate::devices::net) fn set_up(name: &str, up: bool) {
    link_message(name, libc::RTM_NEWLINK, if up { IFF_UP } else { 0 }, IFF_UP);
}

/// Deletes an interface.
pub(in crate::devices::net) fn delete(name: &str) {
    link_message(name, libc::RTM_DELLINK, 0, 0);
}

/// A socket that sends and receives whole frames on an interface.
pub(in crate::devices::net) fn frames(name: &str) -> OwnedFd {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: makes a socket.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into()) };
    assert!(socket >= 0);
    // SAFETY: nobody else has the new descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeroes is a valid address of this kind.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index(name).cast_signed();
    let length = size_of_val(&address) as u32;
    // SAFETY: the kernel reads an address of that length from behind the pointer.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(result, 0);
    socket
}

#[test]
fn a_tap_is_made_ready() {
    with_own_network(|| {
        let tap = Tap::new(make("cable", GOOD), false).unwrap();
        assert_eq!(tap.name(), "cable");
        let mut size: libc::c_int = 0;
        // SAFETY: the kernel writes an integer to behind the pointer.
        unsafe { ioctl(tap.fd(), TUNGETVNETHDRSZ, &raw mut size) }.unwrap();
        assert_eq!(size, 12);
        let error = rustix::io::read(tap.fd(), &mut [0; 64]).unwrap_err();
        assert_eq!(error, rustix::io::Errno::AGAIN);
    });
}

#[test]
fn a_tap_that_was_made_in_another_way_is_refused() {
    with_own_network(|| {
        for (flags, multi_queue, missing) in [
            (IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, false, "IFF_TAP"),
            (IFF_TAP | IFF_NO_PI, false, "IFF_VNET_HDR"),
            (GOOD, true, "IFF_MULTI_QUEUE"),
        ] {
            match Tap::new(make("cable", flags), multi_queue) {
                Err(TapError::Flag { name, flag }) => {
                    assert_eq!((name.as_str(), flag), ("cable", missing));
                }
                other => panic!("{missing}: {other:?}"),
            }
        }
        // The control device without an interface behind it.
        let tap = Tap::new(open().unwrap(), false);
        assert!(matches!(tap, Err(TapError::NoTap(_))));
    });
}

#[test]
fn the_kernel_takes_all_offloads_a_driver_can_choose() {
    with_own_network(|| {
        let tap = Tap::new(make("cable", GOOD), false).unwrap();
        let kind = tap.probe().unwrap();
        let offered = guest_offloads(super::super::features::on_offer(kind, false, false));
        let bits: Vec<u64> = (0..64)
            .map(|bit| 1 << bit)
            .filter(|bit| offered & bit != 0)
            .collect();
        for choice in 0..1u64 << bits.len() {
            let chosen = (0..)
                .zip(&bits)
                .filter(|(place, _)| choice >> place & 1 != 0);
            let features = chosen.fold(0, |features, (_, bit)| features | bit);
            tap.set_offloads(tap_offloads(features)).unwrap();
        }
    });
}

#[test]
fn queues_are_attached_and_detached() {
    with_own_network(|| {
        let taps: Vec<Tap> = (0..2)
            .map(|_| Tap::new(make("cable", GOOD | IFF_MULTI_QUEUE), true).unwrap())
            .collect();
        let second = &taps[1];
        for _ in 0..2 {
            second.set_attached(false).unwrap();
            assert!(second.set_attached(false).is_err());
            second.set_attached(true).unwrap();
            assert!(second.set_attached(true).is_err());
            let error = rustix::io::read(second.fd(), &mut [0; 64]).unwrap_err();
            assert_eq!(error, rustix::io::Errno::AGAIN);
        }
    });
}
