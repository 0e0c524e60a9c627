//! Caisson's guest agent: PID 1 of the pod's virtual machine.
//!
//! It mounts what a Linux system needs, says hello to the host, and then does what the host asks
//! over ttrpc ([`service`]): it sets up the [`network`], makes containers ([`pod`], [`launch`]), moves their standard
//! streams ([`streams`], [`stdio`]), and collects every process that ends ([`reaper`]).

pub mod boot;
pub mod bus;
pub mod cgroup;
pub mod container;
pub mod cpus;
pub mod descriptor;
pub mod disk;
pub mod error;
pub mod guest_devices;
pub mod identifier;
pub mod init;
pub mod kernel_file;
pub mod launch;
pub mod localhost;
pub mod mirror;
pub mod names;
pub mod network;
pub mod partition;
pub mod placed_devices;
pub mod pod;
pub mod pod_processes;
pub mod process;
pub mod reaper;
pub mod root;
pub mod service;
pub mod signal;
pub mod socket;
pub mod specification;
pub mod stdio;
pub mod streams;
pub mod sysctl;
pub mod terminal;
pub mod volumes;
