//! A guest that owns its kernel, and drives its devices itself.
//!
//! The guest takes a function from its kernel's driver and plays the [`Step`]s of a test, which
//! write registers, rings and requests as no driver would. What must hold whatever it does: only
//! the device that was driven wrongly stops, its driver can reset it and go on, the host hears what
//! was wrong, the VMM holds no more than before, and the machine beside it notices nothing.
//!
//! [`Step`]: caisson_machine_tests::Step

mod attacker;
mod bus;
mod chains;
mod devices;
mod driver;
mod ends;
mod files;
mod held;
mod queues;
mod requests;
mod ring;
mod sockets;
