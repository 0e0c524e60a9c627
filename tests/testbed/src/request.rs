//! What the host side asks of the testbed's init: the first frame it sends.

use serde::{Deserialize, Serialize};

/// The directories of the second disk that init binds to the same places of the root.
pub const INSTALLED_DIRECTORIES: &[&str] = &["/usr/local", "/opt"];

/// The device node the guest's kernel gives port 1 of virtio device 0.
pub const PORT_DEVICE: &str = "/dev/vport0p1";

/// What one boot of the outer machine is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Say whether KVM works inside: load its module and make a virtual machine. Nothing is mounted.
    Probe,
    /// Start containerd and run a command.
    Run(Run),
}

/// A command to run once containerd answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Program and arguments; found in PATH like a shell would.
    pub arguments: Vec<String>,
    /// Environment beside the testbed's own (PATH, HOME, and CAISSON_TESTBED: `1`, or
    /// `local` where this machine itself is used).
    pub environment: Vec<(String, String)>,
    /// A terminal for the command's standard streams.
    pub terminal: Option<TerminalSize>,
    /// With a terminal: standard error is a pipe of its own all the same.
    pub separate_stderr: bool,
    /// A host directory is offered over 9p and appears as /share.
    pub share: bool,
    /// Beat [`crate::Frame::Alive`] every few seconds.
    pub heartbeat: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}
