//! The containerd versions of the testbed: Debian's releases each carry one.

use std::fmt;
use std::str::FromStr;

/// A version of containerd, and with it the Debian release of the outer machine's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContainerdVersion {
    /// 1.6, of bookworm.
    V1_6,
    /// 1.7, of trixie.
    #[default]
    V1_7,
    /// 2.x, of sid.
    V2,
}

/// The image containerd's CRI plugin makes pod sandboxes of.
pub(crate) const PAUSE_IMAGE: &str = "docker.io/library/pause:latest";

impl ContainerdVersion {
    /// Every version.
    pub const ALL: &[Self] = &[Self::V1_6, Self::V1_7, Self::V2];

    /// The Debian release that carries it.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::V1_6 => "bookworm",
            Self::V1_7 => "trixie",
            Self::V2 => "sid",
        }
    }

    /// The text of /etc/containerd/config.toml: Caisson as a runtime for pods (with 2.x also one for
    /// those of the sandbox service), our pause image, and Debian's place for CNI plugins.
    #[must_use]
    pub fn config(self) -> String {
        match self {
            Self::V1_6 | Self::V1_7 => format!(
                r#"version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.caisson]
    runtime_type = "io.containerd.caisson.v2"
"#
            ),
            Self::V2 => format!(
                r#"version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE_IMAGE}'

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.caisson]
  runtime_type = 'io.containerd.caisson.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.caisson-sandbox]
  runtime_type = 'io.containerd.caisson.v2'
  sandboxer = 'shim'
"#
            ),
        }
    }
}

impl fmt::Display for ContainerdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2 => "2",
        })
    }
}

impl FromStr for ContainerdVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|version| version.to_string() == text)
            .ok_or_else(|| format!("there is no containerd {text:?} here: 1.6, 1.7 or 2"))
    }
}
