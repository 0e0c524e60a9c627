//! Root file systems on disks: which of containerd's mounts the guest makes, and of what.
//!
//! | What containerd hands over | Where it is mounted |
//! |---|---|
//! | bind and overlay mounts of directories | on the host, shared by virtio-fs ([`crate::mounts`]) |
//! | one ext4 or erofs mount (devmapper, blockfile, erofs) | in the guest |
//! | erofs mounts and an overlay whose upper directory is on an ext4 mount, or that has none | in the guest |
//! | erofs mounts and an overlay whose upper directory is one of the host | on the host, shared |
//!
//! What decides is the type that the mount says, never what is found at its source. What a guest may
//! have written is not mounted on the host.

mod directory;
mod form;
mod options;
mod template;

use std::path::Path;

use caisson_protocol::agent::{
    DiskNumber, NewDirectory as GuestDirectory, RootMount as GuestMount, RootPlace,
};
use caisson_protocol::{MAX_DISK_PARTS, MAX_NEW_DIRECTORIES, MAX_ROOT_MOUNTS};
use rustix::mount::MountFlags;

pub(crate) use self::directory::NewDirectory;
pub(crate) use self::form::{Form, Kind};
pub(crate) use self::options::DiskOptions;
pub(crate) use self::template::{Part, Place};
use crate::disks::{DeviceNumber, DiskSource, Order};
use crate::mounts::MountOptions;
use crate::{ErrorKind, RootMount, SandboxError};

/// A root file system that the guest mounts.
#[derive(Debug, PartialEq)]
pub(crate) struct GuestRoot {
    steps: Vec<Step>,
}

/// One of its mounts.
#[derive(Debug, PartialEq)]
struct Step {
    /// For the guest, but for its disks.
    mount: GuestMount,
    /// What the disks are on the host.
    sources: Vec<String>,
    /// Whether the guest writes to them.
    writable: bool,
}

/// Says what of `mounts` is for the guest: nothing, if they are all the host's.
///
/// # Errors
/// [`ErrorKind::Unimplemented`] for file systems that the guest does not have and for what needs the
/// host; [`ErrorKind::InvalidArgument`] for what makes no sense.
pub(crate) fn plan(mounts: &[RootMount]) -> Result<Option<GuestRoot>, SandboxError> {
    let forms: Vec<Form<'_>> = mounts.iter().map(Form::of).collect::<Result<_, _>>()?;
    let Some((last, before)) = forms.split_last() else {
        return Ok(None);
    };
    if forms.len() > MAX_ROOT_MOUNTS {
        let problem = format!(
            "it is the last of {} mounts, and {MAX_ROOT_MOUNTS} are possible: the image has too many layers, \
             flatten it",
            forms.len()
        );
        return Err(last.error(ErrorKind::InvalidArgument, &problem));
    }
    if !forms.iter().any(|form| form.kind.is_disk()) || last.has_host_upper() {
        return Ok(None);
    }
    if !before.is_empty() && last.kind.is_disk() {
        let problem = "it is the last of several mounts, and would hide the others";
        return Err(last.error(ErrorKind::InvalidArgument, problem));
    }
    let mut steps: Vec<Step> = Vec::new();
    for form in &forms {
        let step = match form.kind {
            Kind::Ext4 | Kind::Erofs => on_disk(form)?,
            Kind::Overlay => overlay(form, &steps)?,
            Kind::Bind => bind(form, &steps)?,
        };
        steps.push(step);
    }
    Ok(Some(GuestRoot { steps }))
}

impl GuestRoot {
    /// What of the host becomes disks, in the order in which [`GuestRoot::mounts`] takes their numbers.
    /// Blocks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for what is not there or neither a file nor a block device.
    pub(crate) fn orders(&self) -> Result<Vec<Order>, SandboxError> {
        let mut orders = Vec::new();
        for step in &self.steps {
            for path in &step.sources {
                let what = match step.sources.first() {
                    Some(first) if first != path => {
                        format!("{}: its device {path}", step.mount.name)
                    }
                    _ => step.mount.name.clone(),
                };
                let source = DiskSource::at(Path::new(path)).map_err(|error| {
                    SandboxError::new(ErrorKind::InvalidArgument, format!("{what}: {error}"))
                })?;
                orders.push(Order {
                    source,
                    writable: step.writable,
                    what,
                });
            }
        }
        Ok(orders)
    }

    /// What the guest is to mount, with the numbers that the disks have there.
    pub(crate) fn mounts(self, numbers: impl IntoIterator<Item = DeviceNumber>) -> Vec<GuestMount> {
        let mut numbers = numbers.into_iter();
        let mut give = |step: Step| {
            let disks = numbers.by_ref().take(step.sources.len());
            let disks = disks.map(|number| DiskNumber {
                major: number.major,
                minor: number.minor,
                ..Default::default()
            });
            GuestMount {
                disks: disks.collect(),
                ..step.mount
            }
        };
        self.steps.into_iter().map(&mut give).collect()
    }
}

/// A file system on a disk.
fn on_disk(form: &Form<'_>) -> Result<Step, SandboxError> {
    if !form.mount.target.trim_matches('/').is_empty() {
        let problem = format!(
            "it is for the directory \"{}\" of the root, and not the root",
            form.mount.target
        );
        return Err(form.error(ErrorKind::Unimplemented, &problem));
    }
    if form.mount.source.contains("{{") {
        let problem = "its source is that of another mount, and must be a file or block device";
        return Err(form.error(ErrorKind::Unimplemented, problem));
    }
    let DiskOptions {
        mut flags,
        options,
        devices,
    } = DiskOptions::of(form)?;
    if form.kind == Kind::Erofs {
        flags |= MountFlags::RDONLY;
    }
    let mut sources = vec![form.mount.source.clone()];
    sources.extend(devices);
    if sources.len() > MAX_DISK_PARTS {
        let problem = format!(
            "it has {} devices, and {MAX_DISK_PARTS} are possible",
            sources.len()
        );
        return Err(form.error(ErrorKind::InvalidArgument, &problem));
    }
    Ok(Step {
        writable: !flags.contains(MountFlags::RDONLY),
        sources,
        mount: GuestMount {
            options,
            ..empty(form, flags)
        },
    })
}

fn overlay(form: &Form<'_>, before: &[Step]) -> Result<Step, SandboxError> {
    let parsed = MountOptions::parse(&form.mount.options);
    let mut mount = empty(form, parsed.flags);
    for option in &parsed.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => mount.lower = places(form, layers, before)?,
            Some(("upperdir", path)) => {
                mount.upper = Some(written_place(form, path, before)?).into();
            }
            Some(("workdir", path)) => mount.work = Some(written_place(form, path, before)?).into(),
            Some(("X-containerd.mkdir.path", new)) => {
                mount.directories.push(directory(form, new, before)?);
            }
            _ => mount.options.push(options::of_overlay(form, option)?),
        }
    }
    if mount.lower.len() > MAX_ROOT_MOUNTS {
        let problem = format!(
            "it has {} layers, and {MAX_ROOT_MOUNTS} are possible: flatten the image",
            mount.lower.len()
        );
        return Err(form.error(ErrorKind::InvalidArgument, &problem));
    }
    if mount.lower.is_empty() || mount.upper.is_some() != mount.work.is_some() {
        let problem = "it needs lowerdir, and upperdir and workdir together or not at all";
        return Err(form.error(ErrorKind::InvalidArgument, problem));
    }
    check_directories(form, &mount)?;
    Ok(Step {
        mount,
        sources: Vec::new(),
        writable: false,
    })
}

fn bind(form: &Form<'_>, before: &[Step]) -> Result<Step, SandboxError> {
    let parsed = MountOptions::parse(&form.mount.options);
    let mut mount = empty(form, parsed.flags);
    mount.lower = places(form, &form.mount.source, before)?;
    for option in &parsed.data {
        match option.split_once('=') {
            Some(("X-containerd.mkdir.path", new)) => {
                mount.directories.push(directory(form, new, before)?);
            }
            _ => return Err(options::unknown(form, option)),
        }
    }
    check_directories(form, &mount)?;
    Ok(Step {
        mount,
        sources: Vec::new(),
        writable: false,
    })
}

fn check_directories(form: &Form<'_>, mount: &GuestMount) -> Result<(), SandboxError> {
    if mount.directories.len() <= MAX_NEW_DIRECTORIES {
        return Ok(());
    }
    let problem = format!("it has more than {MAX_NEW_DIRECTORIES} directories made");
    Err(form.error(ErrorKind::InvalidArgument, &problem))
}

fn empty(form: &Form<'_>, flags: MountFlags) -> GuestMount {
    GuestMount {
        kind: form.kind.name().to_owned(),
        flags: flags.bits(),
        name: form.name(),
        ..Default::default()
    }
}

/// Directories of earlier mounts.
fn places(form: &Form<'_>, text: &str, before: &[Step]) -> Result<Vec<RootPlace>, SandboxError> {
    let mut places = Vec::new();
    for part in form.parts(text)? {
        match part {
            Part::Place(place) => places.push(in_guest(form, &place, before)?),
            Part::OnHost(path) => {
                let problem = format!(
                    "{path:?} is a directory of the host, and the others are on disks: the two \
                     cannot be put together"
                );
                return Err(form.error(ErrorKind::Unimplemented, &problem));
            }
        }
    }
    Ok(places)
}

/// One directory of an earlier mount that can be written.
fn written_place(form: &Form<'_>, text: &str, before: &[Step]) -> Result<RootPlace, SandboxError> {
    let mut found = places(form, text, before)?;
    let Some(place) = found.pop().filter(|_| found.is_empty()) else {
        let problem = format!("{text:?} is not one directory");
        return Err(form.error(ErrorKind::InvalidArgument, &problem));
    };
    let step = usize::try_from(place.mount)
        .ok()
        .and_then(|number| before.get(number));
    if step.is_none_or(|step| !step.writable) {
        let problem = format!(
            "{text:?} cannot be written: mount {} is read-only",
            place.mount
        );
        return Err(form.error(ErrorKind::InvalidArgument, &problem));
    }
    Ok(place)
}

fn in_guest(form: &Form<'_>, place: &Place, before: &[Step]) -> Result<RootPlace, SandboxError> {
    if place.mount >= before.len() {
        let problem = format!(
            "it names mount {}, and there are {} before it",
            place.mount,
            before.len()
        );
        return Err(form.error(ErrorKind::InvalidArgument, &problem));
    }
    Ok(RootPlace {
        mount: u32::try_from(place.mount).unwrap_or(u32::MAX),
        path: place.path.clone(),
        ..Default::default()
    })
}

/// A directory that is to be made on an earlier mount.
fn directory(form: &Form<'_>, text: &str, before: &[Step]) -> Result<GuestDirectory, SandboxError> {
    let new = NewDirectory::parse(form, text)?;
    let place = written_place(form, new.path, before)?;
    if place.path.is_empty() {
        let problem = format!("{text:?} is a mount and no directory to be made");
        return Err(form.error(ErrorKind::InvalidArgument, &problem));
    }
    Ok(GuestDirectory {
        place: Some(place).into(),
        mode: new.mode,
        uid: new.uid,
        gid: new.gid,
        ..Default::default()
    })
}

#[cfg(test)]
#[path = "roots_test.rs"]
mod tests;
