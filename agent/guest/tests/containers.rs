//! Containers, made for real on this machine: what the agent does with the kernel.

#[path = "containers/confinement.rs"]
mod confinement;
mod guest;
#[path = "containers/links.rs"]
mod links;
#[path = "containers/pausing.rs"]
mod pausing;
#[path = "containers/programs.rs"]
mod programs;
#[path = "containers/roots.rs"]
mod roots;
#[path = "containers/running.rs"]
mod running;
#[path = "containers/sharing.rs"]
mod sharing;
#[path = "containers/streams.rs"]
mod streams;
#[path = "containers/terminals.rs"]
mod terminals;
#[path = "containers/updating.rs"]
mod updating;
#[path = "containers/volumes.rs"]
mod volumes;
