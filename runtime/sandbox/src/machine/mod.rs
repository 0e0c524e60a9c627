//! The VMM and the file server as processes, and the conversation with the VMM.

mod control;
mod end;
mod identity;
mod open;
mod output;
mod patience;
mod phases;
mod process;
mod record;
mod supervisor;

pub(crate) use identity::release_dead;
pub(crate) use open::HostFiles;
pub(crate) use output::HelperOutput;
pub(crate) use phases::Phases;
pub(crate) use process::{Namespaces, spawn};
pub(crate) use record::{POD, add as record, kill_recorded};
pub(crate) use supervisor::{Companion, Machine, MachineParts};
