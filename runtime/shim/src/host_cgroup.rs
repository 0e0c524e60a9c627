//! The pod's control group on the host.
//!
//! Kubernetes makes a group for each pod, gives it the pod's limits and reads from it what the pod
//! uses. All processes of the pod belong below it: the shim enters the group that the sandbox
//! container's configuration names before it starts the virtual machine, and what it starts is born
//! there. A process cannot remove the group it is in, so the shim goes back at its end.
//!
//! Both generations of control groups are served, and both spellings of `linux.cgroupsPath`: a path,
//! and systemd's `slice:prefix:name`.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::XattrFlags;

/// What of the processes' groups the kernel tells (cgroups(7)).
const OWN_GROUPS: &str = "/proc/self/cgroup";
const MOUNTS: &str = "/proc/self/mountinfo";

/// Files that a new group of the first generation has empty, and cannot be used with.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Marks a group above those of pods that a shim has made, for the shim of the last pod in it. The
/// kernel keeps it for groups of the second generation.
const MADE: &str = "trusted.caisson.made";
/// How often the groups above a pod's may vanish while it is made: each time another pod has ended.
const TRIES: u32 = 100;

/// A `linux.cgroupsPath` that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the control group {0:?} (`linux.cgroupsPath` of config.json, or the pod's cgroup_parent) must \
     be a path without `..`, or slice:prefix:name"
)]
pub(crate) struct PathError(String);

/// One hierarchy of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Where it is mounted.
    mount: PathBuf,
    /// The group of this process therein.
    own: PathBuf,
}

/// A group that this process has entered.
#[derive(Debug)]
pub(crate) struct HostCgroup {
    hierarchies: Vec<Hierarchy>,
    group: PathBuf,
    /// The directories that were made, the outer ones first.
    made: Vec<PathBuf>,
}

impl HostCgroup {
    /// Makes the group if it does not exist, and moves this process there.
    ///
    /// # Errors
    /// Fails when there are no control groups or one cannot be made or entered; this process is
    /// then where it was.
    pub(crate) fn enter(path: &GroupPath) -> io::Result<Self> {
        let hierarchies = hierarchies()?;
        if hierarchies.is_empty() {
            return Err(io::Error::other("this host has no control groups mounted"));
        }
        let mut entered = Self {
            hierarchies,
            group: path.0.clone(),
            made: Vec::new(),
        };
        match entered.try_enter() {
            Ok(()) => Ok(entered),
            Err(error) => {
                entered.leave();
                Err(error)
            }
        }
    }

    fn try_enter(&mut self) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            make(hierarchy, &self.group, &mut self.made)?;
            join(&hierarchy.mount.join(&self.group))?;
        }
        Ok(())
    }

    /// Moves this process back to where it came from and removes what was made.
    pub(crate) fn leave(self) {
        for hierarchy in &self.hierarchies {
            // The place it came from may be gone; the root of a hierarchy takes everybody.
            if join(&hierarchy.mount.join(&hierarchy.own)).is_err()
                && let Err(error) = join(&hierarchy.mount)
            {
                let mount = hierarchy.mount.display();
                tracing::warn!("the shim stays in the pod's control group of {mount}: {error}");
            }
            complain(remove_group(hierarchy, &self.group));
            remove_outer(hierarchy, &self.group);
        }
        for directory in self.made.iter().rev() {
            // Others may be in it by now; then it is theirs.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Removes the group that a shim which is gone had entered.
///
/// # Errors
/// Fails when one is there and cannot be removed.
pub(crate) fn remove(path: &GroupPath) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        remove_group(&hierarchy, &path.0)?;
        remove_outer(&hierarchy, &path.0);
    }
    Ok(())
}

/// Removes the groups above it that shims have made, as far as nobody is in them any more.
fn remove_outer(hierarchy: &Hierarchy, group: &Path) {
    for outer in group.ancestors().skip(1) {
        let directory = hierarchy.mount.join(outer);
        let is_ours = rustix::fs::getxattr(&directory, MADE, &mut [0_u8; 1][..]).is_ok();
        if !is_ours || fs::remove_dir(directory).is_err() {
            return;
        }
    }
}

fn remove_group(hierarchy: &Hierarchy, group: &Path) -> io::Result<()> {
    let directory = hierarchy.mount.join(group);
    match fs::remove_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("the control group {} stays: {error}", directory.display()),
        )),
        Ok(()) => Ok(()),
    }
}

fn complain(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!("{error}");
    }
}

/// Moves this process, with all its threads.
fn join(directory: &Path) -> io::Result<()> {
    let file = directory.join("cgroup.procs");
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut file| io::Write::write_all(&mut file, b"0"));
    written.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the shim cannot enter {}: {error}", directory.display()),
        )
    })
}

/// Makes a group and those above it, also while other pods end, which may take those along.
fn make(hierarchy: &Hierarchy, group: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    for _ in 1..TRIES {
        match try_make(hierarchy, group, made) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    try_make(hierarchy, group, made)
}

fn try_make(hierarchy: &Hierarchy, group: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut directory = hierarchy.mount.clone();
    for part in group {
        let parent = directory.clone();
        directory.push(part);
        match fs::create_dir(&directory) {
            Ok(()) => {
                made.push(directory.clone());
                if directory != hierarchy.mount.join(group) {
                    // Where that cannot be, it is removed by this shim or stays.
                    let _ = rustix::fs::setxattr(&directory, MADE, b"1", XattrFlags::empty());
                }
                take_over_cpuset(&parent, &directory)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!(
                        "cannot make the control group {}: {error}",
                        directory.display()
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// In the first generation a new group has no processors and no memory until it is given some.
fn take_over_cpuset(parent: &Path, directory: &Path) -> io::Result<()> {
    for file in CPUSET {
        let value = match fs::read_to_string(directory.join(file)) {
            Ok(value) => value,
            // Not of this hierarchy.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // In the second generation empty means all that the parent has.
        if value.trim().is_empty() && !directory.join("cgroup.controllers").exists() {
            fs::write(directory.join(file), fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// The path of a group below the mount of its hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupPath(PathBuf);

impl GroupPath {
    /// The group of a pod below the one that Kubernetes has made for it, as containerd names those of
    /// containers: in a slice of systemd it is a scope.
    ///
    /// # Errors
    /// [`PathError`].
    pub(crate) fn of_pod(parent: &str, id: &str) -> Result<Self, PathError> {
        let parent = Path::new(parent);
        let slice = parent
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.ends_with(".slice"));
        match slice {
            Some(slice) => Self::parse(Path::new(&format!("{slice}:cri-containerd:{id}"))),
            None => Self::parse(&parent.join(id)),
        }
    }

    /// Its path.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }

    /// Reads a `linux.cgroupsPath` in either spelling.
    ///
    /// # Errors
    /// [`PathError`].
    pub(crate) fn parse(path: &Path) -> Result<Self, PathError> {
        let text = path.to_str().unwrap_or_default();
        let parsed = match text.split(':').collect::<Vec<_>>().as_slice() {
            [slice, prefix, name] => scope(slice, prefix, name),
            _ => plain(path),
        };
        parsed
            .map(Self)
            .ok_or_else(|| PathError(path.display().to_string()))
    }
}

fn plain(path: &Path) -> Option<PathBuf> {
    let mut group = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => group.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!group.as_os_str().is_empty()).then_some(group)
}

/// Where systemd has the scope `prefix-name` of a slice: a slice lies in those whose names its own
/// begins with (systemd.slice(5)).
fn scope(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let is_plain = |word: &str| !word.contains('/') && word != "." && word != "..";
    if ![slice, prefix, name].into_iter().all(is_plain) || name.is_empty() {
        return None;
    }
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let stem = slice.strip_suffix(".slice")?;
    let mut group = PathBuf::new();
    // `-.slice` is the root.
    if stem != "-" {
        let mut outer = String::new();
        for word in stem.split('-') {
            if word.is_empty() {
                return None;
            }
            outer.push_str(word);
            group.push(format!("{outer}.slice"));
            outer.push('-');
        }
    }
    group.push(match prefix {
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    });
    Some(group)
}

fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    Ok(parse_hierarchies(
        &fs::read_to_string(OWN_GROUPS)?,
        &fs::read_to_string(MOUNTS)?,
    ))
}

/// The mounted hierarchies in which this process has a group.
fn parse_hierarchies(own: &str, mounts: &str) -> Vec<Hierarchy> {
    let groups = own
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let hierarchy = |(controllers, group): (&str, &str)| {
        let mount = mounts.lines().find_map(|line| mounted(controllers, line))?;
        Some(Hierarchy {
            mount,
            own: PathBuf::from(group.trim_start_matches('/')),
        })
    };
    groups.filter_map(hierarchy).collect()
}

/// Where the hierarchy with these controllers (none for the second generation) is mounted, if this
/// line of `mountinfo` says so.
fn mounted(controllers: &str, line: &str) -> Option<PathBuf> {
    let (place, file_system) = line.split_once(" - ")?;
    let mut words = file_system.split(' ');
    let (kind, options) = (words.next()?, words.nth(1)?);
    let fits = match kind {
        "cgroup2" => controllers.is_empty(),
        "cgroup" => {
            let is_option = |controller| options.split(',').any(|option| option == controller);
            !controllers.is_empty() && controllers.split(',').all(is_option)
        }
        _ => false,
    };
    fits.then(|| place.split(' ').nth(4).map(PathBuf::from))?
}

#[cfg(test)]
#[path = "host_cgroup_test.rs"]
mod tests;
