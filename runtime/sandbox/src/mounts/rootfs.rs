//! Root file systems, from what containerd's task Create request says or from where one is
//! already mounted.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use rustix::mount::{MountAttrFlags, MountFlags};

use super::erofs;
use super::layers::Layers;
use super::options::MountOptions;
use super::overlay::{self, MAX_DATA};
use super::tree::{self, Attributes, DetachedTree, Propagation};
use crate::roots::{Form, Kind, NewDirectory};
use crate::{ErrorKind, RootMount, SandboxError};

/// The option of a mount that wants a directory to be made first.
const MAKE: &str = "X-containerd.mkdir.path=";

/// Assembles `mounts`, in order, on the empty directory `name` of `staging`, and takes the result
/// from there. Leaves nothing mounted in `staging`.
///
/// If one names others, all but the last get a place of their own; without, they pile up.
///
/// # Errors
/// [`ErrorKind::Unimplemented`] for what is on disks, but for erofs;
/// [`ErrorKind::InvalidArgument`] when a mount is not possible.
pub(super) fn assemble(
    mounts: &[RootMount],
    staging: BorrowedFd<'_>,
    name: &str,
) -> Result<DetachedTree, SandboxError> {
    let forms: Vec<Form<'_>> = mounts.iter().map(Form::of).collect::<Result<_, _>>()?;
    let layered = forms.iter().any(Form::has_templates);
    let mut layers = Layers::new(staging, name);
    let mut mounted = Staged {
        staging,
        name,
        count: 0,
    };
    for (number, form) in forms.iter().enumerate() {
        let mount = form.mount;
        if layered && number + 1 < forms.len() {
            layers
                .add(|target| mount_on(form, target, &Layers::new(staging, name)))
                .map_err(|error| failed(&error))??;
            continue;
        }
        let target = mounted.open(&mount.target).map_err(|error| {
            invalid(
                form,
                format!("no directory \"{}\" to mount on: {error}", mount.target),
            )
        })?;
        let at_top = mount.target.trim_matches('/').is_empty();
        mount_on(form, target.as_fd(), &layers)?;
        if at_top {
            mounted.count += 1;
        }
    }
    let top = mounted.open("").map_err(|error| failed(&error))?;
    let tree = DetachedTree::clone_of_open(top, true).map_err(|error| failed(&error))?;
    harden(&tree)?;
    Ok(tree)
}

fn mount_on(
    form: &Form<'_>,
    target: BorrowedFd<'_>,
    layers: &Layers<'_>,
) -> Result<(), SandboxError> {
    match form.kind {
        Kind::Bind => bind(form, target, layers),
        Kind::Overlay => overlay(form, target, layers),
        Kind::Erofs => erofs::mount(form, target),
        Kind::Ext4 => Err(form.error(
            ErrorKind::Unimplemented,
            "a guest may have written to it, so that the host does not mount it, and the mounts after \
             it are of directories of the host",
        )),
    }
}

/// Takes the root file system from where docker or CRI-O have mounted it.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if there is none.
pub(super) fn already_at(path: &Path) -> Result<DetachedTree, SandboxError> {
    let not_usable = |error: io::Error| {
        SandboxError::new(
            ErrorKind::InvalidArgument,
            format!("root file system {}: {error}", path.display()),
        )
    };
    let tree = DetachedTree::clone_of(path, true).map_err(not_usable)?;
    if !tree.is_directory().map_err(not_usable)? {
        return Err(not_usable(io::ErrorKind::NotADirectory.into()));
    }
    harden(&tree)?;
    Ok(tree)
}

/// Nothing on the host opens a device or runs a program through these mounts, and what the host
/// mounts later does not appear in them.
fn harden(tree: &DetachedTree) -> Result<(), SandboxError> {
    let attributes = Attributes {
        set: MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
        propagation: Propagation::Private,
        ..Attributes::NONE
    };
    tree.change(attributes, true)
        .map_err(|error| failed(&error))
}

fn bind(form: &Form<'_>, target: BorrowedFd<'_>, layers: &Layers<'_>) -> Result<(), SandboxError> {
    let options = MountOptions::parse(&form.mount.options);
    make_directories(form, &options)?;
    let not_possible = |error: io::Error| invalid(form, error.to_string());
    let source = layers.fill(form, &form.mount.source)?;
    let tree =
        DetachedTree::clone_of(Path::new(&source), options.recursive).map_err(not_possible)?;
    if !tree.is_directory().map_err(not_possible)? {
        return Err(not_possible(io::ErrorKind::NotADirectory.into()));
    }
    let (set, clear) = options.attributes();
    let attributes = Attributes {
        set,
        clear,
        propagation: Propagation::Private,
    };
    tree.change(attributes, options.recursive)
        .map_err(not_possible)?;
    tree.attach_on(target).map_err(not_possible)
}

fn overlay(
    form: &Form<'_>,
    target: BorrowedFd<'_>,
    layers: &Layers<'_>,
) -> Result<(), SandboxError> {
    let mut options = MountOptions::parse(&form.mount.options);
    make_directories(form, &options)?;
    options.data.retain(|option| !option.starts_with(MAKE));
    for option in &mut options.data {
        if let Some(("lowerdir", lower)) = option.split_once('=')
            && lower.contains("{{")
        {
            *option = format!("lowerdir={}", layers.fill(form, lower)?);
        }
    }
    let Some(fitted) = overlay::fit(&options.data) else {
        let length: usize = options.data.iter().map(|option| option.len() + 1).sum();
        return Err(invalid(
            form,
            format!(
                "its options have {length} bytes and the kernel takes {MAX_DATA}: \
                 the image has too many layers, flatten it"
            ),
        ));
    };
    // overlayfs knows its lower and upper directories from the options alone.
    tree::mount_on(
        target,
        form.kind.name(),
        &form.mount.source,
        options.flags | MountFlags::NODEV,
        &fitted.data,
        fitted.base.as_deref(),
    )
    .map_err(|error| {
        invalid(
            form,
            format!(
                "{error} (options: {}; the kernel's log may say more)",
                form.mount.options.join(",")
            ),
        )
    })
}

/// Makes the directories of the host that a mount wants to have made (`PATH[:MODE[:UID:GID]]`).
fn make_directories(form: &Form<'_>, options: &MountOptions) -> Result<(), SandboxError> {
    for option in &options.data {
        let Some(new) = option.strip_prefix(MAKE) else {
            continue;
        };
        let NewDirectory {
            path,
            mode,
            uid,
            gid,
        } = NewDirectory::parse(form, new)?;
        let made = match fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.and_then(|()| chown(path, Some(uid), Some(gid))),
        };
        made.map_err(|error| invalid(form, format!("its directory {path}: {error}")))?;
    }
    Ok(())
}

/// A directory on which mounts pile up, cleared when this is dropped.
struct Staged<'a> {
    staging: BorrowedFd<'a>,
    name: &'a str,
    count: usize,
}

impl Staged<'_> {
    /// Opens a directory of what is mounted so far.
    fn open(&self, target: &str) -> io::Result<OwnedFd> {
        let top = tree::open_directory(self.staging, self.name)?;
        tree::open_in_root(top, target.trim_matches('/'))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Each takes what is mounted below it along.
        for _ in 0..self.count {
            if let Err(error) = tree::unmount_at(self.staging, self.name) {
                tracing::warn!("root file system of {}: {error}", self.name);
            }
        }
    }
}

fn invalid(form: &Form<'_>, problem: impl AsRef<str>) -> SandboxError {
    form.error(ErrorKind::InvalidArgument, problem.as_ref())
}

fn failed(error: &io::Error) -> SandboxError {
    SandboxError::new(ErrorKind::Internal, format!("root file system: {error}"))
}
