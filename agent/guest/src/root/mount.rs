//! One mount of a root file system.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use caisson_protocol::agent::{DiskNumber, NewDirectory, RootMount, RootPlace};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::kernel_log::KernelLog;
use super::overlay::Overlay;
use crate::error::AgentError;

/// Where the kernel makes the nodes of its devices.
const NODES: &str = "/dev";
/// Where it lists block devices by their numbers.
const BLOCK_DEVICES: &str = "/sys/dev/block";
/// Longest options that mount(2) takes: a page with its terminating zero.
const MAX_OPTIONS: usize = 4095;

/// Mounts one on `place`. `mounted` are the places of those before it.
pub(super) fn mount(
    request: &RootMount,
    mounted: &[PathBuf],
    place: &Path,
) -> Result<(), AgentError> {
    let mut log = KernelLog::from_now_on();
    let about = |error: io::Error| refusal(request, &error, log.as_mut());
    match request.kind.as_str() {
        "ext4" | "erofs" => on_disks(request, place).map_err(about),
        "overlay" => overlay_of(request, mounted, place).map_err(about),
        "bind" => bind(request, mounted, place).map_err(about),
        kind => Err(AgentError::InvalidArgument(format!(
            "{}: the guest mounts no {kind:?}",
            request.name
        ))),
    }
}

/// Says what was to be mounted, and why it is not, in the kernel's own words if it has any.
fn refusal(request: &RootMount, error: &io::Error, log: Option<&mut KernelLog>) -> AgentError {
    let hint = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::INVAL) => " (no such file system there, or an option that it does not know)",
        Some(Errno::ROFS) => " (it has to be written first, perhaps to recover its journal)",
        Some(Errno::NODEV) => " (the guest's kernel does not have this file system)",
        _ => "",
    };
    let said = log.map(KernelLog::last).unwrap_or_default();
    let said = match said.as_str() {
        "" => String::new(),
        said => format!("; the guest's kernel says: {said}"),
    };
    AgentError::FailedPrecondition(format!(
        "{}: the guest does not mount it: {error}{hint}{said}",
        request.name
    ))
}

fn flags(request: &RootMount) -> MountFlags {
    // As what the host shares: a node in an image has a number of somebody else's kernel.
    MountFlags::from_bits_truncate(request.flags) | MountFlags::NODEV
}

fn on_disks(request: &RootMount, place: &Path) -> io::Result<()> {
    let mut nodes = request.disks.iter().map(node);
    let first = nodes
        .next()
        .ok_or_else(|| io::Error::other("the host names no disk"))??;
    let mut options = request.options.clone();
    for further in nodes {
        options.push(format!("device={}", further?.display()));
    }
    mount_with(&first, place, request, &options)
}

/// The node of a disk.
fn node(disk: &DiskNumber) -> io::Result<PathBuf> {
    let number = format!("{}:{}", disk.major, disk.minor);
    let device = fs::read_link(Path::new(BLOCK_DEVICES).join(number))?;
    let name = device.file_name();
    Ok(Path::new(NODES).join(name.ok_or(io::ErrorKind::NotFound)?))
}

fn overlay_of(request: &RootMount, mounted: &[PathBuf], place: &Path) -> io::Result<()> {
    for new in &request.directories {
        make(new, mounted)?;
    }
    let lower: io::Result<_> = request
        .lower
        .iter()
        .map(|layer| directory(layer, mounted))
        .collect();
    let written = match (request.upper.as_ref(), request.work.as_ref()) {
        (Some(upper), Some(work)) => Some((directory(upper, mounted)?, directory(work, mounted)?)),
        _ => None,
    };
    let overlay = Overlay {
        lower: lower?,
        written,
        options: &request.options,
    };
    overlay.mount(place, flags(request))?;
    set_flags(place, request)
}

fn bind(request: &RootMount, mounted: &[PathBuf], place: &Path) -> io::Result<()> {
    for new in &request.directories {
        make(new, mounted)?;
    }
    let source = request.lower.first();
    let source = source.ok_or_else(|| io::Error::other("the host names nothing to show"))?;
    rustix::mount::mount_bind(directory(source, mounted)?, place)?;
    set_flags(place, request)
}

/// Sets the flags of a mount that was made without; undoes it if that fails.
fn set_flags(place: &Path, request: &RootMount) -> io::Result<()> {
    let flags = flags(request);
    let remounted = rustix::mount::mount_remount(place, flags | MountFlags::BIND, c"");
    if let Err(error) = remounted {
        let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        return Err(error.into());
    }
    Ok(())
}

fn mount_with(
    source: &Path,
    place: &Path,
    request: &RootMount,
    options: &[String],
) -> io::Result<()> {
    let options = options.join(",");
    if options.len() > MAX_OPTIONS {
        return Err(io::Error::other(format!(
            "its options have {} bytes, {MAX_OPTIONS} are possible",
            options.len()
        )));
    }
    let options = CString::new(options)?;
    let kind = request.kind.as_str();
    let flags = flags(request);
    Ok(rustix::mount::mount(
        source,
        place,
        kind,
        flags,
        options.as_c_str(),
    )?)
}

/// The path of a directory in a mount, once it is sure that it leads nowhere else.
fn directory(place: &RootPlace, mounted: &[PathBuf]) -> io::Result<PathBuf> {
    let top = top(place, mounted)?;
    if place.path.is_empty() {
        return Ok(top.to_path_buf());
    }
    open(top, &place.path)?;
    Ok(top.join(&place.path))
}

fn top<'a>(place: &RootPlace, mounted: &'a [PathBuf]) -> io::Result<&'a Path> {
    let number = usize::try_from(place.mount).ok();
    let top = number.and_then(|number| mounted.get(number));
    top.map(PathBuf::as_path)
        .ok_or_else(|| io::Error::other(format!("there is no mount {} before it", place.mount)))
}

fn open(top: &Path, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(top, flags, Mode::empty())?;
    let path = if path.is_empty() { "." } else { path };
    Ok(rustix::fs::openat2(
        top,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?)
}

/// Makes a directory, if there is none. One that is there stays as it is.
fn make(new: &NewDirectory, mounted: &[PathBuf]) -> io::Result<()> {
    let place = new.place.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
    let (parent, name) = place
        .path
        .rsplit_once('/')
        .unwrap_or(("", place.path.as_str()));
    let parent = open(top(place, mounted)?, parent)?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    let (uid, gid) = (Uid::from_raw(new.uid), Gid::from_raw(new.gid));
    rustix::fs::chownat(
        &parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    // Not when it is made, where the agent's umask counts. Nobody else is in this file system.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let made = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    Ok(rustix::fs::fchmod(
        made,
        Mode::from_raw_mode(new.mode & 0o7777),
    )?)
}
