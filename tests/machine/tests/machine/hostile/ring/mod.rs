//! A guest in ring 0 that misuses what a processor has: registers, interrupts, timers, ports, memory
//! that is none, and the ways to end.
//!
//! It is no Linux, but a program of [`Act`]s which the VMM boots as it boots a kernel. What must hold:
//! the VMM lives, does what the shim says, has the threads, descriptors and memory it had, and sleeps
//! when its guest does. A guest that ends ends in a way that is written down.
//!
//! [`Act`]: caisson_machine_tests::ring::Act

mod ends;
mod instructions;
mod interrupts;
mod memory;
mod ports;
mod registers;
mod survivor;
