//! The files a machine is made of, opened by the host side: the VMM opens nothing itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::{Config, ErrorKind, SandboxError};

const KVM: &str = "/dev/kvm";

/// What the VMM gets as descriptors.
#[derive(Debug)]
pub(crate) struct HostFiles {
    /// `/dev/kvm`.
    pub(crate) kvm: File,
    /// The guest kernel.
    pub(crate) kernel: File,
    /// The initial RAM file system.
    pub(crate) initrd: File,
    /// Where the console is kept, if it is.
    console: Option<File>,
}

impl HostFiles {
    /// Opens everything and checks that the programs can be executed. `name` is for the file that
    /// keeps the console.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`], naming the file and the cure.
    pub(crate) fn open(config: &Config, name: &str) -> Result<Self, SandboxError> {
        check_program("vmm", &config.vmm)?;
        check_program("file_server", &config.file_server)?;
        check_program("pod_process", &config.pod_process)?;
        Ok(Self {
            kvm: open_kvm(Path::new(KVM))?,
            kernel: open_image("kernel", &config.kernel)?,
            initrd: open_image("initrd", &config.initrd)?,
            console: config
                .console_dir
                .as_ref()
                .map(|directory| create_console(directory, name))
                .transpose()?,
        })
    }

    /// The file for the console, if it is kept.
    pub(crate) fn take_console(&mut self) -> Option<File> {
        self.console.take()
    }
}

fn open_image(key: &str, path: &Path) -> Result<File, SandboxError> {
    let file = File::open(path).map_err(|error| missing(key, path, &error))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(missing(key, path, &io::Error::other("not a regular file"))),
        Err(error) => Err(missing(key, path, &error)),
    }
}

fn check_program(key: &str, path: &Path) -> Result<(), SandboxError> {
    let metadata = fs::metadata(path).map_err(|error| missing(key, path, &error))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(missing(
        key,
        path,
        &io::Error::other("not an executable file"),
    ))
}

fn missing(key: &str, path: &Path, error: &io::Error) -> SandboxError {
    precondition(format!(
        "{key} {}: {error}; install it, or set `{key}` in the configuration file",
        path.display()
    ))
}

fn open_kvm(path: &Path) -> Result<File, SandboxError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| {
            let cure = match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    "load the kernel module kvm_intel or kvm_amd; if that fails, switch on \
                     virtualization in the firmware or, in a virtual machine, nested virtualization"
                }
                Some(libc::EACCES | libc::EPERM) => {
                    "containerd must run as root and no device rule may forbid it"
                }
                _ => "virtual machines cannot run without it",
            };
            precondition(format!("{}: {error}; {cure}", path.display()))
        })
}

/// The console of an earlier machine of the same name is replaced.
fn create_console(directory: &Path, name: &str) -> Result<File, SandboxError> {
    let path = directory.join(format!("{name}.log"));
    fs::create_dir_all(directory)
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
        })
        .map_err(|error| {
            precondition(format!(
                "console file {}: {error}; correct `console_dir` in the configuration file",
                path.display()
            ))
        })
}

fn precondition(message: String) -> SandboxError {
    SandboxError::new(ErrorKind::FailedPrecondition, message)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{check_program, create_console, open_image, open_kvm};

    #[test]
    fn errors_name_the_file_the_key_and_the_cure() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        for (error, words) in [
            (
                open_image("kernel", Path::new("/no/such/kernel")).unwrap_err(),
                &[
                    "kernel",
                    "/no/such/kernel",
                    "No such file",
                    "install",
                    "`kernel`",
                ][..],
            ),
            (
                open_image("initrd", directory.path()).unwrap_err(),
                &["`initrd`", "not a regular file"],
            ),
            (
                check_program("vmm", &plain).unwrap_err(),
                &["`vmm`", "plain", "not an executable file"],
            ),
            (
                open_kvm(&directory.path().join("kvm")).unwrap_err(),
                &["kvm_intel", "kvm_amd", "No such file"],
            ),
            (
                create_console(&plain, "pod").unwrap_err(),
                &["plain/pod.log", "`console_dir`"],
            ),
        ] {
            for word in words {
                assert!(error.to_string().contains(word), "{word} in {error}");
            }
        }
        open_image("kernel", &plain).unwrap();
    }
}
