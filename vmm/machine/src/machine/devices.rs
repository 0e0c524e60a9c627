//! From what the shim describes to the devices on the bus.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use caisson_control::{DeviceConfig, DiskConfig, FileServerConfig, NetConfig, RefusalKind};
use vm_memory::GuestMemoryBackend;
use vm_memory::GuestMemoryRegion;

use crate::devices::block::{Block, BlockError};
use crate::devices::fs::{FileSystem, FileSystemError};
use crate::devices::net::{Net, NetError};
use crate::memory::GuestRam;
use crate::virtio::device::Device;

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// Files and description do not match.
    #[error("the device needs {needed} files and {files} came with it")]
    Files {
        /// How many it needs.
        needed: usize,
        /// How many there are.
        files: usize,
    },
    /// There is one of this name already.
    #[error("there is {0} already")]
    NameTaken(String),
    /// A file server cannot be used.
    #[error("file server {tag:?}: {source}")]
    FileServer {
        /// Its tag.
        tag: String,
        /// What was wrong.
        source: FileSystemError,
    },
    /// A file server needs memory that it can share.
    #[error(
        "file server {0:?}: the machine was booted with private memory; give it a memory file or a \
         file server at boot"
    )]
    PrivateMemory(String),
    /// A disk cannot be made.
    #[error("disk {id:?}: {source}")]
    Disk {
        /// Its id.
        id: String,
        /// What was wrong.
        source: BlockError,
    },
    /// A network interface cannot be made.
    #[error("{name}: {source}")]
    Net {
        /// What it is called.
        name: String,
        /// What was wrong.
        source: NetError,
    },
}

impl DeviceError {
    /// The kind of refusal for the shim.
    pub(crate) fn kind(&self) -> RefusalKind {
        match self {
            Self::Files { .. } | Self::NameTaken(_) | Self::PrivateMemory(_) => {
                RefusalKind::Invalid
            }
            Self::Net { source, .. } => source.kind(),
            Self::FileServer { .. } | Self::Disk { .. } => RefusalKind::Device,
        }
    }
}

/// What is said when nothing is left for a device of one file.
const NO_FILE: DeviceError = DeviceError::Files {
    needed: 1,
    files: 0,
};

/// Makes the disk that `config` describes of the files at the front of `files`.
///
/// # Errors
/// See [`DeviceError`].
pub(super) fn disk(
    config: &DiskConfig,
    files: &mut VecDeque<OwnedFd>,
) -> Result<Box<dyn Device>, DeviceError> {
    let needed = config.parts.len().max(1);
    if files.len() < needed {
        let files = files.len();
        return Err(DeviceError::Files { needed, files });
    }
    match Block::new(config, files.drain(..needed).collect()) {
        Ok(device) => Ok(Box::new(device)),
        Err(source) => Err(DeviceError::Disk {
            id: config.id.clone(),
            source,
        }),
    }
}

/// Makes the network interface that `config` describes of the files at the front of `files`.
///
/// # Errors
/// See [`DeviceError`].
pub(super) fn net(
    config: &NetConfig,
    files: &mut VecDeque<OwnedFd>,
) -> Result<Box<dyn Device>, DeviceError> {
    let count = usize::from(config.queue_pairs).min(files.len());
    let taps = files.drain(..count).collect();
    match Net::new(config, taps) {
        Ok(device) => Ok(Box::new(device)),
        Err(source) => Err(DeviceError::Net {
            name: name_of_net(config),
            source,
        }),
    }
}

/// Makes the device for the file server at the other end of the socket at the front of `files`.
///
/// # Errors
/// See [`DeviceError`].
pub(super) fn file_server(
    config: &FileServerConfig,
    files: &mut VecDeque<OwnedFd>,
    memory: &GuestRam,
) -> Result<Box<dyn Device>, DeviceError> {
    let tag = &config.tag;
    let socket = files.pop_front().ok_or(NO_FILE)?;
    if memory.iter().any(|region| region.file_offset().is_none()) {
        return Err(DeviceError::PrivateMemory(tag.clone()));
    }
    match FileSystem::new(tag, UnixStream::from(socket)) {
        Ok(device) => Ok(Box::new(device)),
        Err(source) => Err(DeviceError::FileServer {
            tag: tag.clone(),
            source,
        }),
    }
}

/// What a device is called, by what makes it one of a kind: the guest could not tell two apart.
pub(super) fn name(config: &DeviceConfig) -> String {
    match config {
        DeviceConfig::Disk(disk) => format!("disk {:?}", disk.id),
        DeviceConfig::Net(net) => name_of_net(net),
        DeviceConfig::FileServer(server) => format!("file server {:?}", server.tag),
        DeviceConfig::Balloon => "a balloon".to_owned(),
        DeviceConfig::Memory => "a memory device".to_owned(),
        DeviceConfig::Rng => "a source of random numbers".to_owned(),
    }
}

fn name_of_net(config: &NetConfig) -> String {
    let mac = config.mac.map(|byte| format!("{byte:02x}")).join(":");
    format!("network interface {mac}")
}

#[cfg(test)]
#[path = "devices_test.rs"]
mod tests;
