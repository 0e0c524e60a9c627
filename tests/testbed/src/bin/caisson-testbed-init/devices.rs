//! Kernel modules, device nodes and the loopback interface.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::inotify;
use rustix::net::{AddressFamily, SendFlags, SocketType};

/// Loads the modules of one group in the order their file names give.
///
/// The files lie uncompressed in the initramfs: decompressing them under emulation costs more time
/// than the rest of the boot.
pub(crate) fn load_modules(group: &str) -> Result<()> {
    let directory = Path::new("/modules").join(group);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("reading {}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        let image = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        match rustix::system::init_module(&image, c"") {
            // Groups share modules.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("loading {}", file.display()));
            }
        }
    }
    Ok(())
}

/// Waits until a device node exists; its driver probes in the background.
pub(crate) fn wait_for(path: &Path) -> Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).context("inotify")?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    inotify::add_watch(&watch, parent, inotify::WatchFlags::CREATE)
        .with_context(|| format!("watching {}", parent.display()))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    // The watch came first, so a node made between it and this look is seen either way. A node
    // that never comes is noticed by the host side's deadline.
    while !path.exists() {
        events.next().context("inotify")?;
    }
    Ok(())
}

/// Brings `lo` up: RTM_NEWLINK for interface 1 (rtnetlink(7)).
pub(crate) fn loopback_up() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes()); // length of header and body
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence number, port
    message.extend_from_slice(&[0; 4]); // family, padding, type
    message.extend_from_slice(&1_i32.to_ne_bytes()); // index of lo
    message.extend_from_slice(&IFF_UP.to_ne_bytes()); // flags
    message.extend_from_slice(&IFF_UP.to_ne_bytes()); // which flags to change
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        rustix::net::SocketFlags::CLOEXEC,
        None, // protocol 0 is NETLINK_ROUTE
    )
    .context("netlink socket")?;
    rustix::net::send(&socket, &message, SendFlags::empty()).context("netlink request")?;
    let mut reply = [0_u8; 64];
    rustix::io::read(&socket, &mut reply).context("netlink answer")?;
    // struct nlmsgerr: a negative errno right after the 16-byte header; 0 is an acknowledgement.
    match reply.get(16..20).and_then(|bytes| bytes.try_into().ok()) {
        Some(code) if i32::from_ne_bytes(code) == 0 => Ok(()),
        Some(code) => bail!(
            "the kernel would not bring lo up: {}",
            i32::from_ne_bytes(code)
        ),
        None => bail!("the kernel's answer is too short"),
    }
}
