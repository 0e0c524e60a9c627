//! Where this machine gets Debian packages from, asked of its own apt configuration, so that
//! packages of another release can be had from the same place.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// The keys that sign Debian's archives.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Addresses of Debian's archives, as apt writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The main archive.
    pub debian: String,
    /// The archive of security updates, if the machine uses it.
    pub security: Option<String>,
}

impl Mirror {
    /// Asks apt for the archives that this machine is set up with.
    ///
    /// # Errors
    /// Fails if there is no apt, or it is set up with no Debian archive.
    pub fn of_this_machine() -> anyhow::Result<Self> {
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI)", "Created-By: Packages"])
            .output()
            .context("cannot run apt-get: the kernel source is a Debian package; on another system, give --kernel-source PATH")?;
        let targets = String::from_utf8_lossy(&output.stdout);
        let Some(mirror) = Self::among(&targets) else {
            bail!(
                "apt on this machine has no Debian package mirror: add one to /etc/apt/sources.list.d, \
                 or give a kernel source tree or tarball with --kernel-source PATH"
            );
        };
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: run `apt-get install debian-archive-keyring`");
        }
        Ok(mirror)
    }

    /// Picks the archives from lines "origin|label|release|address". Before the first `apt-get
    /// update` origin and label are empty, and the address has to tell.
    fn among(targets: &str) -> Option<Self> {
        let mut debian = None;
        let mut security = None;
        for line in targets.lines() {
            let mut fields = line.splitn(4, '|');
            let (Some(origin), Some(label), Some(release), Some(address)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let known = !origin.is_empty();
            let plain = address.trim_end_matches('/');
            if known && origin != "Debian" {
                continue;
            }
            if label == "Debian-Security" || (!known && release.ends_with("-security")) {
                security.get_or_insert_with(|| address.to_owned());
            } else if label == "Debian" || (!known && plain.ends_with("/debian")) {
                debian.get_or_insert_with(|| address.to_owned());
            }
        }
        Some(Self {
            debian: debian?,
            security,
        })
    }

    /// A source list in deb822 format for Debian's release `suite` with its security updates.
    pub fn source_list(&self, suite: &str) -> String {
        let archive = |address: &str, suite: &str| {
            format!(
                "Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n"
            )
        };
        let mut list = archive(&self.debian, suite);
        if let Some(security) = &self.security {
            list.push_str(&archive(security, &format!("{suite}-security")));
        }
        list
    }
}

#[cfg(test)]
#[path = "mirror_test.rs"]
mod tests;
