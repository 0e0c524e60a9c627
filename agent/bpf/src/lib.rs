//! BPF programs of a few dozen instructions: which devices a container may use (in the guest), and
//! which socket a connection to localhost is for (on the host). They are written as [`instruction`]s
//! and need no compiler, no object file and no library.

mod attach;
mod call;
mod load;

pub mod instruction;

pub use attach::{attach_to_cgroup, link_to_network};
pub use load::{Kind, load, socket_map};
