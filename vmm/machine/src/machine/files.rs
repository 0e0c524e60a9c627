//! The files that come with a boot request, by their roles.

use std::fs::File;
use std::os::fd::OwnedFd;

use caisson_control::FileRole;

/// Longest mount tag of a virtio-fs device (virtio 1.3 §5.11.4).
const MAX_TAG: usize = 36;

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// Roles and files do not match.
    #[error("the request describes {roles} files and {files} came with it")]
    Count {
        /// How many are described.
        roles: usize,
        /// How many there are.
        files: usize,
    },
    /// A file that must be there is not.
    #[error("the request has no file for {0}")]
    Missing(&'static str),
    /// There are two files for one purpose.
    #[error("the request has more than one file for {0}")]
    Twice(&'static str),
    /// The tag is empty or too long.
    #[error("file server tag {0:?}: it must have 1 to {MAX_TAG} bytes")]
    Tag(String),
    /// Two file servers have the same tag.
    #[error("more than one file server has the tag {0:?}")]
    TagTwice(String),
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
    /// Connected file servers with the tags under which the guest mounts them.
    pub(crate) servers: Vec<(String, OwnedFd)>,
}

impl Files {
    /// Sorts `files`, the roles of which are in the same order.
    ///
    /// # Errors
    /// See [`FilesError`].
    pub(crate) fn sort(roles: &[FileRole], files: Vec<OwnedFd>) -> Result<Self, FilesError> {
        if roles.len() != files.len() {
            return Err(FilesError::Count {
                roles: roles.len(),
                files: files.len(),
            });
        }
        let (mut kvm, mut kernel, mut initrd) = (None, None, None);
        let (mut console, mut memory) = (None, None);
        let mut servers: Vec<(String, OwnedFd)> = Vec::new();
        for (role, file) in roles.iter().zip(files) {
            match role {
                FileRole::Kvm => set(&mut kvm, file, "/dev/kvm")?,
                FileRole::Kernel => set(&mut kernel, file, "the kernel")?,
                FileRole::Initrd => set(&mut initrd, file, "the initrd")?,
                FileRole::Console => set(&mut console, file, "the console")?,
                FileRole::Memory => set(&mut memory, file, "the memory")?,
                FileRole::FileServer { tag } => {
                    if tag.is_empty() || tag.len() > MAX_TAG {
                        return Err(FilesError::Tag(tag.clone()));
                    }
                    if servers.iter().any(|(other, _)| other == tag) {
                        return Err(FilesError::TagTwice(tag.clone()));
                    }
                    servers.push((tag.clone(), file));
                }
            }
        }
        Ok(Self {
            kvm: kvm.ok_or(FilesError::Missing("/dev/kvm"))?,
            kernel: kernel.ok_or(FilesError::Missing("the kernel"))?.into(),
            initrd: initrd.map(File::from),
            console: console.map(File::from),
            memory: memory.map(File::from),
            servers,
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
