//! What the host mounts for a pod.
//!
//! ```text
//! /run/caisson/<namespace>/<id>/     state directory, 0700
//!     processes                      pids of VMM and file server, for cleaning up
//!     staging/                       where overlays are put together
//!     shared/                        a tmpfs, shared propagation: the host's side
//!         <container>/rootfs         root file system of a container
//!         .volumes/<n>               what bind mounts of its containers show
//!     export/                        the same tmpfs, read-only at the top: the guest's side
//! ```
//!
//! What is mounted below `shared` appears below `export` by propagation, and in the mount
//! namespace of the file server, which serves `export`. The guest can write in a root file system
//! or volume that is mounted writable, and nowhere on the way to it: no path that the host resolves
//! here goes through a directory the guest can change.

mod bind;
mod container_dir;
mod erofs;
mod layers;
mod loop_device;
mod mountinfo;
mod options;
mod overlay;
#[cfg(test)]
pub(crate) mod private_mounts;
mod remove_tree;
mod rootfs;
mod state_dir;
mod tmpfs;
mod tree;
mod versions;
mod volumes;

pub(crate) use container_dir::{ContainerDir, RootSource};
pub(crate) use options::MountOptions;
pub(crate) use state_dir::StateDir;
pub(crate) use tmpfs::tmpfs_size;
pub use tree::enter_mount_namespace;
pub(crate) use versions::Version;
pub(crate) use volumes::Volume;
