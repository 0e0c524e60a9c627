//! How a virtual machine ended.

/// How a sandbox's virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEnd {
    /// For programs.
    pub kind: VmEndKind,
    /// For people: one sentence, followed by the last lines of the guest's console where they
    /// say more.
    pub description: String,
    /// The last lines of the guest's console, at most 4096 characters without control
    /// characters; empty if the VMM did not get to report them.
    pub console: String,
}

/// Ways in which a virtual machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmEndKind {
    /// [`Sandbox::stop`](crate::Sandbox::stop) ended it.
    Stopped,
    /// The guest shut itself down.
    Shutdown,
    /// The guest's kernel panicked.
    Panic,
    /// The VMM or the file server was killed, failed, or broke the protocol.
    Failed,
}
