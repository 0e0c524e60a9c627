//! Pods through containerd's CRI plug-in, as a kubelet makes them. A pod's author must not be able
//! to tell it from runc's, except that `uname -r` differs.

mod crowd;
mod devices;
mod grouping;
mod installer;
mod life;
mod limits;
mod namespaces;
mod network;
mod operations;
mod plugins;
mod sandbox_api;
mod security;
mod sharing;
mod updates;
mod volumes;
