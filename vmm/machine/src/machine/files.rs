//! The files that come with a boot request, by their roles.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;

use caisson_control::FileRole;

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// Roles and files do not match.
    #[error("the request describes {described} files and {files} came with it")]
    Count {
        /// How many are described.
        described: usize,
        /// How many there are.
        files: usize,
    },
    /// A file that must be there is not.
    #[error("the request has no file for {0}")]
    Missing(&'static str),
    /// There are two files for one purpose.
    #[error("the request has more than one file for {0}")]
    Twice(&'static str),
}

/// The files, sorted.
#[derive(Debug)]
pub(crate) struct Files {
    /// /dev/kvm.
    pub(crate) kvm: OwnedFd,
    /// The guest's kernel.
    pub(crate) kernel: File,
    /// The initial RAM file system.
    pub(crate) initrd: Option<File>,
    /// Where the console output goes.
    pub(crate) console: Option<File>,
    /// What the guest's RAM is made of.
    pub(crate) memory: Option<File>,
    /// Those of the devices.
    pub(crate) devices: VecDeque<OwnedFd>,
}

impl Files {
    /// Sorts `files`: those of the roles come first and in the same order, and `of_devices` of the
    /// devices behind them.
    ///
    /// # Errors
    /// See [`FilesError`].
    pub(crate) fn sort(
        roles: &[FileRole],
        of_devices: usize,
        files: Vec<OwnedFd>,
    ) -> Result<Self, FilesError> {
        let described = roles.len().saturating_add(of_devices);
        if described != files.len() {
            return Err(FilesError::Count {
                described,
                files: files.len(),
            });
        }
        let (mut kvm, mut kernel, mut initrd) = (None, None, None);
        let (mut console, mut memory) = (None, None);
        let mut files = files.into_iter();
        for (role, file) in roles.iter().zip(&mut files) {
            match role {
                FileRole::Kvm => set(&mut kvm, file, "/dev/kvm")?,
                FileRole::Kernel => set(&mut kernel, file, "the kernel")?,
                FileRole::Initrd => set(&mut initrd, file, "the initrd")?,
                FileRole::Console => set(&mut console, file, "the console")?,
                FileRole::Memory => set(&mut memory, file, "the memory")?,
            }
        }
        Ok(Self {
            kvm: kvm.ok_or(FilesError::Missing("/dev/kvm"))?,
            kernel: kernel.ok_or(FilesError::Missing("the kernel"))?.into(),
            initrd: initrd.map(File::from),
            console: console.map(File::from),
            memory: memory.map(File::from),
            devices: files.collect(),
        })
    }
}

fn set(
    place: &mut Option<OwnedFd>,
    file: OwnedFd,
    purpose: &'static str,
) -> Result<(), FilesError> {
    match place.replace(file) {
        None => Ok(()),
        Some(_) => Err(FilesError::Twice(purpose)),
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
