//! The kernel's source: Debian's package, or what the user names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::Options;
use crate::mirror::Mirror;
use crate::patches::{self, Patches};
use crate::progress::{run_logged, say};

/// The package: the long-term kernel that Debian's release below is built around.
const PACKAGE: &str = "linux-source-6.12";
/// The Debian release it is taken from.
const SUITE: &str = "trixie";

/// In an unpacked tree, the identity of what it is from. Written last, so that a tree without it is half
/// unpacked.
const STAMP: &str = ".caisson-source";

/// A kernel source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Debian's package, downloaded.
    Package(PathBuf),
    /// A tarball of the user.
    Tarball(PathBuf),
    /// An unpacked tree of the user. It is not written to, and may change at any time.
    Tree(PathBuf),
}

impl Source {
    /// Finds the source; downloads Debian's package if it is to be used and not here yet.
    pub(crate) fn locate(options: &Options) -> anyhow::Result<Self> {
        match &options.kernel_source {
            None => match downloaded(&options.cache)? {
                Some(package) => Ok(Self::Package(package)),
                None => download(&options.cache).map(Self::Package),
            },
            Some(path) => Self::given(path),
        }
    }

    /// What the user named.
    fn given(path: &Path) -> anyhow::Result<Self> {
        let path = fs::canonicalize(path)
            .with_context(|| format!("cannot find the kernel source {}", path.display()))?;
        if !path.is_dir() {
            return Ok(Self::Tarball(path));
        }
        require_tree(&path)?;
        ensure!(
            !path.join(".config").exists() && !path.join("include/config").exists(),
            "a kernel was built inside {0}, and such a tree cannot be built elsewhere: run `make -C {0} mrproper`, or give a clean copy",
            path.display()
        );
        Ok(Self::Tree(path))
    }

    /// A name for the folder that what is built from this source is kept in.
    pub(crate) fn folder_name(&self) -> String {
        let (kind, path) = match self {
            Self::Package(path) => return file_name(path).trim_end_matches(".deb").to_owned(),
            Self::Tarball(path) => ("tarball", path),
            Self::Tree(path) => ("tree", path),
        };
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let short: String = digest
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{kind}-{short}")
    }

    /// What changes whenever the source does; `None` if that cannot be told.
    pub(crate) fn identity(&self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Package(path) => Ok(Some(file_name(path))),
            Self::Tarball(path) => {
                let metadata = fs::metadata(path)
                    .with_context(|| format!("cannot look at {}", path.display()))?;
                let changed = metadata
                    .modified()?
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Ok(Some(format!("{path:?} {} {changed:?}", metadata.len())))
            }
            Self::Tree(_) => Ok(None),
        }
    }

    /// Whether the tree at `folder` is what `unpack` would make, up to patches. A user's own tree is
    /// where it is.
    pub(crate) fn is_unpacked(&self, folder: &Path, identity: Option<&str>) -> bool {
        let stamp = || fs::read_to_string(folder.join(STAMP)).ok();
        matches!(self, Self::Tree(_))
            || identity.is_some()
                && stamp().as_deref() == identity
                && !patches::is_half_changed(folder)
    }

    /// The unpacked tree with the patches, made at `folder` if it is not there. A user's own tree is
    /// used where it is, and as it is.
    pub(crate) fn unpack(
        &self,
        folder: &Path,
        identity: Option<&str>,
        patches: &Patches,
    ) -> anyhow::Result<PathBuf> {
        let file = match self {
            Self::Tree(path) => return Ok(path.clone()),
            Self::Package(path) | Self::Tarball(path) => path,
        };
        if !self.is_unpacked(folder, identity) {
            self.unpack_anew(file, folder)?;
            let stamp = folder.join(STAMP);
            fs::write(&stamp, identity.unwrap_or_default())
                .with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        patches.bring_to(folder)?;
        Ok(folder.to_owned())
    }

    fn unpack_anew(&self, file: &Path, folder: &Path) -> anyhow::Result<()> {
        say(&format!("unpacking {}", file_name(file)));
        remove_folder(folder)?;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        match self {
            Self::Package(package) => {
                let mut outer = folder.as_os_str().to_owned();
                outer.push(".package");
                let outer = PathBuf::from(outer);
                remove_folder(&outer)?;
                succeed(Command::new("dpkg-deb").arg("-x").arg(package).arg(&outer))?;
                untar(&outer.join(format!("usr/src/{PACKAGE}.tar.xz")), folder)?;
                remove_folder(&outer)?;
            }
            _ => untar(file, folder)?,
        }
        require_tree(folder)
    }
}

/// Downloads Debian's package again if a newer one is out. The next build uses it.
///
/// # Errors
/// Fails if the machine's package mirror cannot be reached.
pub fn update(options: &Options) -> anyhow::Result<()> {
    let _lock = options.lock_cache()?;
    download(&options.cache).map(drop)
}

/// The package in the cache.
fn downloaded(cache: &Path) -> anyhow::Result<Option<PathBuf>> {
    let folder = cache.join("source");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", folder.display()));
        }
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Downloads the newest package with a private apt configuration, which leaves the machine's own
/// lists alone, and makes it the only one in the cache.
fn download(cache: &Path) -> anyhow::Result<PathBuf> {
    let mirror = Mirror::of_this_machine()?;
    let apt = cache.join("apt");
    let lists = apt.join("sources.list.d");
    let arriving = cache.join("source/arriving");
    remove_folder(&arriving)?;
    for folder in [
        &lists,
        &apt.join("lists/partial"),
        &apt.join("archives/partial"),
        &arriving,
    ] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let list = lists.join(format!("{SUITE}.sources"));
    fs::write(&list, mirror.source_list(SUITE))
        .with_context(|| format!("cannot write {}", list.display()))?;

    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&arriving).env("LC_ALL", "C");
        let setting = |name: &str, value: &Path| format!("{name}={}", value.display());
        for option in [
            setting("Dir::Etc::sourcelist", Path::new("/dev/null")),
            setting("Dir::Etc::sourceparts", &lists),
            setting("Dir::State::lists", &apt.join("lists")),
            setting("Dir::Cache", &apt),
            // A mirror's lists may have run out while this machine's clock went on; signatures
            // are still checked.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Check-Date=false".to_owned(),
            // The folder may be one that apt's own user cannot enter.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.args(arguments);
        command
    };
    let log = cache.join("apt.log");
    run_logged(
        apt_get(&["update", "--error-on=any"]),
        &format!("fetching the package lists of Debian {SUITE}"),
        &log,
        None,
    )
    .context("the package mirror of this machine cannot be reached; without it, give a kernel source with --kernel-source PATH")?;
    run_logged(
        apt_get(&["download", PACKAGE]),
        &format!("downloading {PACKAGE} (about 150 MB)"),
        &log,
        None,
    )?;

    let folder = cache.join("source");
    let arrived = fs::read_dir(&arriving)?
        .next()
        .context("apt-get download succeeded, yet no package arrived")??;
    while let Some(old) = downloaded(cache)? {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    let package = folder.join(arrived.file_name());
    fs::rename(arrived.path(), &package)
        .with_context(|| format!("cannot move the package to {}", package.display()))?;
    remove_folder(&arriving)?;
    Ok(package)
}

fn require_tree(path: &Path) -> anyhow::Result<()> {
    ensure!(
        path.join("Makefile").exists() && path.join("arch/x86/Kconfig").exists(),
        "{} is no Linux source tree: there is no arch/x86/Kconfig in it",
        path.display()
    );
    Ok(())
}

/// Unpacks a tarball without its top folder.
fn untar(tarball: &Path, folder: &Path) -> anyhow::Result<()> {
    succeed(
        Command::new("tar")
            .args([
                "--extract",
                "--strip-components=1",
                "--no-same-owner",
                "--file",
            ])
            .arg(tarball)
            .arg("--directory")
            .arg(folder),
    )
    .with_context(|| {
        format!(
            "cannot unpack {}: is it a tarball of a kernel source?",
            tarball.display()
        )
    })
}

/// Runs a command that is quiet unless it fails.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}

/// Removes a folder and all in it, if it is there.
pub(crate) fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
#[path = "source_test.rs"]
mod tests;
