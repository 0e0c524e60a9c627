//! The configuration file.
//!
//! ```toml
//! kernel = "/usr/local/share/caisson/vmlinux"
//! initrd = "/usr/local/share/caisson/initrd.img"
//! vmm = "/usr/local/libexec/caisson/caisson-vmm"
//! file_server = "/usr/local/libexec/caisson/caisson-fs"
//! pod_process = "/usr/local/libexec/caisson/caisson-pod"
//!
//! [vm]
//! vcpus = 1                 # for a pod without a CPU limit, 1 to 32
//! memory_mib = 256          # for a pod without a memory limit, 64 to 1048576
//! max_vcpus = 8             # a running pod may grow to this; not set by default
//! max_memory_mib = 4096     # likewise; as much as the host has by default
//! kernel_parameters = ""    # appended to the guest's command line
//!
//! [jail]
//! first_id = 2100000000     # the user and group of a pod's VMM is one of those from here on
//! ids = 65536               # how many there are, and so how many pods at the same time
//!
//! [containers]
//! default_filter = true     # a short system call filter for containers that come without one
//!
//! [debug]
//! console_dir = "/var/log/caisson"   # keep the guests' consoles here; not set by default
//! ```

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use serde::Deserialize;
use toml::Spanned;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/caisson/config.toml";
/// Environment variable that names another configuration file.
pub const CONFIG_VARIABLE: &str = "CAISSON_CONFIG";

/// Most vCPUs of a machine.
pub const MAX_VCPUS: u8 = 32;
/// Least memory of a machine in MiB: below it the kernel and the agent do not fit.
pub const MIN_MEMORY_MIB: u32 = 64;
/// Most memory of a machine in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1024 * 1024;
/// Longest `vm.kernel_parameters`: with our own parameters it stays below the 2048 bytes that
/// Linux keeps of a command line on x86.
const MAX_KERNEL_PARAMETERS: usize = 1024;

/// Least number of a user for a VMM: those below belong to the system.
const MIN_ID: u32 = 1000;
/// Most of them, so that numbers of users never reach their largest with [`MAX_IDS`] more.
const MAX_ID: u32 = 4_000_000_000;
/// Most users for VMMs.
const MAX_IDS: u32 = 1 << 24;

/// The numbers of users and groups for VMMs, of which each that runs has one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The first.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// The settings of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The guest kernel, an uncompressed ELF.
    pub kernel: PathBuf,
    /// The initial RAM file system that holds the agent.
    pub initrd: PathBuf,
    /// The `caisson-vmm` binary.
    pub vmm: PathBuf,
    /// The `caisson-fs` binary.
    pub file_server: PathBuf,
    /// The `caisson-pod` binary.
    pub pod_process: PathBuf,
    /// vCPUs of a pod without a CPU limit, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Memory in MiB of a pod without a memory limit, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
    /// vCPUs to which a running machine may grow, 1 to [`MAX_VCPUS`]; without, it keeps those with
    /// which it was booted.
    pub max_vcpus: Option<u8>,
    /// Memory in MiB to which a running machine may grow, to [`MAX_MEMORY_MIB`]; without, as much as the
    /// host has. One that was booted with more keeps that.
    pub max_memory_mib: Option<u32>,
    /// Appended to the command line of the guest's kernel.
    pub kernel_parameters: String,
    /// Who VMMs run as.
    pub ids: Ids,
    /// Whether containers that come without a filter for system calls get a short one.
    pub default_filter: bool,
    /// Directory that keeps a file with the console of each guest.
    pub console_dir: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kernel: "/usr/local/share/caisson/vmlinux".into(),
            initrd: "/usr/local/share/caisson/initrd.img".into(),
            vmm: "/usr/local/libexec/caisson/caisson-vmm".into(),
            file_server: "/usr/local/libexec/caisson/caisson-fs".into(),
            pod_process: "/usr/local/libexec/caisson/caisson-pod".into(),
            vcpus: 1,
            memory_mib: 256,
            max_vcpus: None,
            max_memory_mib: None,
            kernel_parameters: String::new(),
            // Below the numbers that are negative to some programs, and above those that are given
            // to users, to containers and, by directories, to people.
            ids: Ids {
                first: 2_100_000_000,
                count: 65_536,
            },
            default_filter: true,
            console_dir: None,
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {source}", .file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The content is wrong.
    #[error("configuration file {}, line {line}{}: {problem}", .file.display(), of_key(.key))]
    Content {
        /// Which file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The key on that line, if there is one.
        key: Option<String>,
        /// What is wrong and what would be right.
        problem: String,
    },
}

fn of_key(key: &Option<String>) -> String {
    key.as_ref()
        .map_or_else(String::new, |key| format!(", key `{key}`"))
}

/// The file as it is written: every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    kernel: Option<Spanned<PathBuf>>,
    initrd: Option<Spanned<PathBuf>>,
    vmm: Option<Spanned<PathBuf>>,
    file_server: Option<Spanned<PathBuf>>,
    pod_process: Option<Spanned<PathBuf>>,
    vm: Vm,
    jail: Jail,
    containers: Containers,
    debug: Debug,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Vm {
    vcpus: Option<Spanned<i64>>,
    memory_mib: Option<Spanned<i64>>,
    max_vcpus: Option<Spanned<i64>>,
    max_memory_mib: Option<Spanned<i64>>,
    kernel_parameters: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Jail {
    first_id: Option<Spanned<i64>>,
    ids: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Containers {
    default_filter: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Debug {
    console_dir: Option<Spanned<PathBuf>>,
}

impl Config {
    /// Reads the configuration file at `path`; without a path the one that the environment
    /// variable [`CONFIG_VARIABLE`] names, else [`DEFAULT_CONFIG`], whose absence means the
    /// defaults. A file that was asked for by name must exist.
    ///
    /// # Errors
    /// Fails for a file that cannot be read, has an unknown key or a value out of range.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path
            .map(Path::to_path_buf)
            .or_else(|| env::var_os(CONFIG_VARIABLE).map(PathBuf::from));
        let optional = named.is_none();
        let file = named.unwrap_or_else(|| DEFAULT_CONFIG.into());
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(&text, &file),
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }

    /// Reads the text of a configuration file; `file` is only used in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let text = Text { text, file };
        let parsed: File = toml::from_str(text.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            text.error(at, error.message())
        })?;
        let default = Self::default();
        Ok(Self {
            kernel: text.path(parsed.kernel, default.kernel)?,
            initrd: text.path(parsed.initrd, default.initrd)?,
            vmm: text.path(parsed.vmm, default.vmm)?,
            file_server: text.path(parsed.file_server, default.file_server)?,
            pod_process: text.path(parsed.pod_process, default.pod_process)?,
            vcpus: text.number(parsed.vm.vcpus, 1, MAX_VCPUS, default.vcpus)?,
            memory_mib: text.number(
                parsed.vm.memory_mib,
                MIN_MEMORY_MIB,
                MAX_MEMORY_MIB,
                default.memory_mib,
            )?,
            max_vcpus: text.optional_number(parsed.vm.max_vcpus, 1, MAX_VCPUS)?,
            max_memory_mib: text.optional_number(
                parsed.vm.max_memory_mib,
                MIN_MEMORY_MIB,
                MAX_MEMORY_MIB,
            )?,
            kernel_parameters: text.kernel_parameters(parsed.vm.kernel_parameters)?,
            ids: Ids {
                first: text.number(parsed.jail.first_id, MIN_ID, MAX_ID, default.ids.first)?,
                count: text.number(parsed.jail.ids, 1, MAX_IDS, default.ids.count)?,
            },
            default_filter: parsed
                .containers
                .default_filter
                .unwrap_or(default.default_filter),
            console_dir: parsed
                .debug
                .console_dir
                .map(|path| text.path(Some(path), PathBuf::new()))
                .transpose()?,
        })
    }
}

/// The text of a file, for checks whose errors say where.
#[derive(Clone, Copy)]
struct Text<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Text<'_> {
    fn error(self, at: usize, problem: impl Into<String>) -> ConfigError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count();
        let key = self
            .text
            .lines()
            .nth(line)
            .map(|line| line.split('=').next().unwrap_or(line).trim().to_owned())
            .filter(|key| !key.is_empty());
        ConfigError::Content {
            file: self.file.to_owned(),
            line: line + 1,
            key,
            problem: problem.into(),
        }
    }

    fn path(
        self,
        path: Option<Spanned<PathBuf>>,
        default: PathBuf,
    ) -> Result<PathBuf, ConfigError> {
        match path {
            None => Ok(default),
            Some(path) if path.get_ref().is_absolute() => Ok(path.into_inner()),
            Some(path) => Err(self.error(
                path.span().start,
                format!(
                    "`{}` is not an absolute path, one that begins with /",
                    path.get_ref().display()
                ),
            )),
        }
    }

    fn number<T>(
        self,
        number: Option<Spanned<i64>>,
        least: T,
        most: T,
        default: T,
    ) -> Result<T, ConfigError>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        let number = self.optional_number(number, least, most)?;
        Ok(number.unwrap_or(default))
    }

    fn optional_number<T>(
        self,
        number: Option<Spanned<i64>>,
        least: T,
        most: T,
    ) -> Result<Option<T>, ConfigError>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(number) = number else {
            return Ok(None);
        };
        T::try_from(*number.get_ref())
            .ok()
            .filter(|value| (least..=most).contains(value))
            .map(Some)
            .ok_or_else(|| {
                self.error(
                    number.span().start,
                    format!(
                        "{} is out of range, {least} to {most} are allowed",
                        number.get_ref()
                    ),
                )
            })
    }

    fn kernel_parameters(self, words: Option<Spanned<String>>) -> Result<String, ConfigError> {
        let Some(words) = words else {
            return Ok(String::new());
        };
        let printable = words
            .get_ref()
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !printable {
            return Err(self.error(
                words.span().start,
                "only printable ASCII characters are allowed",
            ));
        }
        if words.get_ref().len() > MAX_KERNEL_PARAMETERS {
            return Err(self.error(
                words.span().start,
                format!(
                    "{} characters are too many, {MAX_KERNEL_PARAMETERS} are allowed",
                    words.get_ref().len()
                ),
            ));
        }
        Ok(words.into_inner())
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
