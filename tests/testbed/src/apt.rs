//! Debian packages and root file systems of other releases, without touching the machine's own apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt_source::Mirror;
use crate::tool;

/// Accepts package lists whatever their dates say. The machine's clock may be far from the
/// mirror's (frozen mirrors, machines restored from a snapshot); signatures are still checked.
pub(crate) const ANY_DATE: &[&str] = &[
    "-o",
    "Acquire::Check-Valid-Until=false",
    "-o",
    "Acquire::Check-Date=false",
];

/// Installs `packages` into a new root at `target` (a folder, or a tar archive by its name).
///
/// # Errors
/// When not root, or mmdebstrap's own.
pub(crate) fn make_root(
    mirror: &Mirror,
    suite: &str,
    packages: &[&str],
    target: &Path,
) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can make Debian root file systems: run this command as root");
    }
    let sources = target.with_extension("sources");
    fs::write(&sources, mirror.source(suite))
        .with_context(|| format!("writing {}", sources.display()))?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--variant=minbase"])
        .arg(format!("--include={}", packages.join(",")))
        .args([
            "--aptopt=Acquire::Check-Valid-Until \"false\"",
            "--aptopt=Acquire::Check-Date \"false\"",
            "--aptopt=APT::Install-Recommends \"false\"",
            // Nobody reads manuals in a test machine.
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ])
        .arg(suite)
        .arg(target)
        .arg(&sources);
    let result = tool::run_with_progress(&mut command);
    fs::remove_file(&sources).with_context(|| format!("removing {}", sources.display()))?;
    result
}

/// A private apt: its own lists and sources in one folder.
pub(crate) struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// Fetches the package lists of `suite` into `folder`.
    pub(crate) fn update(mirror: &Mirror, suite: &str, folder: &Path) -> Result<Self> {
        for part in ["sources", "lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("creating {}", part.display()))?;
        }
        fs::write(folder.join("sources/debian.sources"), mirror.source(suite))
            .context("writing the package source")?;
        let apt = Self {
            folder: folder.to_path_buf(),
        };
        tool::run(apt.command("apt-get").arg("update")).with_context(|| {
            format!("the package lists of {suite} cannot be fetched: is the mirror in /etc/apt in reach?")
        })?;
        Ok(apt)
    }

    /// The packages `package` depends on directly.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let output = tool::output(self.command("apt-cache").args(["depends", package]))?;
        Ok(String::from_utf8_lossy(&output)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    }

    /// Downloads `package` and unpacks its files into `target`.
    pub(crate) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        tool::run(
            self.command("apt-get")
                .args(["download", package])
                .current_dir(&self.folder),
        )?;
        let archive = fs::read_dir(&self.folder)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download left no {package} package"))?;
        tool::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(target))?;
        fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        command
            .args(ANY_DATE)
            .args(["-o", "Dir::Etc::SourceList=/dev/null"])
            .arg("-o")
            .arg(option(
                "Dir::Etc::SourceParts",
                &self.folder.join("sources"),
            ))
            .arg("-o")
            .arg(option("Dir::State::Lists", &self.folder.join("lists")))
            .arg("-o")
            .arg(option("Dir::Cache", &self.folder.join("cache")))
            // The folder belongs to root; apt's own user could not write to it.
            .args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}
