//! The testbed: an outer virtual machine with containerd, test images and this workspace's Caisson,
//! in which a command runs as if it were local.
//!
//! [`Testbed::prepare`] makes everything that is missing or out of date; [`Testbed::run`] boots the
//! machine and runs one command. The other side of the conversation is the binary
//! `caisson-testbed-init`.

mod acceleration;
mod apt;
mod apt_source;
mod bundle;
mod cache;
mod child;
mod containerd;
mod disk;
mod exit_status;
mod frame;
mod gvisor;
mod install;
mod local;
mod outer_kernel;
pub mod packages;
pub mod progress;
mod qemu;
mod request;
mod root_disk;
mod session;
mod signal;
mod tally;
mod terminal;
mod test_image;
mod testbed;
pub mod tool;
mod workspace;

pub use bundle::bundle;
pub use cache::location as cache_folder;
pub use child::new_session;
pub use containerd::ContainerdVersion;
pub use exit_status::ExitStatus;
pub use frame::{Decoder, Frame};
pub use gvisor::runsc;
pub use install::InstalledFile;
pub use local::Local;
pub use qemu::MachineOptions;
pub use request::{INSTALLED_DIRECTORIES, PORT_DEVICE, Request, Run, TerminalSize};
pub use session::Stdin;
pub use signal::SignalFd;
pub use tally::Tally;
pub use testbed::{Command, Options, Output, Testbed, clean};
pub use workspace::{debug_program, folder as workspace_folder, static_program};
