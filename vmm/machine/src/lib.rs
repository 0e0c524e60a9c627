//! Caisson's virtual machine monitor.
//!
//! One process runs one machine. It is told what to do, and given every file it may touch, over
//! the control channel (`caisson-control`); it opens nothing by path.
//!
//! ```text
//!   main ── control channel, epoll ──▶ machine::Machine ──▶ vcpu threads ──▶ bus
//!                                          │                                 ├─ pci ── virtio ─┐
//!                                          │                                 └─ ports          │
//!                                          └──▶ io thread ◀── activated devices ───────────────┘
//! ```

#![deny(missing_docs)]

mod devices;
mod events;
mod io_thread;
mod memory;
mod pci;
mod virtio;
