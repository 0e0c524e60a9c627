//! The benchmark of the VMM: `caisson-vmm` beside others, in one run, inside the testbed
//! (`cargo measure --vmm`).
//!
//! ```text
//!  measure-vmm ROUNDS PART ROWS CLOCK ── starts, by turns ──▶ caisson-vmm | QEMU | what CAISSON_PEERS has
//!       │                                                            │
//!       └── kvm_pio, debugfs, /proc ◀────────────────────────────────┘  the same for every one of them
//! ```
//!
//! PART is start, transfer or all; ROWS a part of the names of the transfers that are wanted, or
//! nothing; CLOCK time or instructions.
//!
//! All boot the installed guest kernel. Nothing that is measured is told by a VMM itself.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]
#![allow(unsafe_code, reason = "in cpu_clock")]

mod caisson;
mod contender;
mod cpu_clock;
mod peers;
mod qemu;
mod start;
mod streams;
mod table;
mod trace;
mod transfer;
mod work;

use std::path::Path;

use caisson_machine_tests::initrd_of;

use crate::contender::Guest;
use crate::work::Clock;

/// Where everything lies that is staged with this program.
const SHARE: &str = "/share";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments
        .next()
        .map_or(5, |number| number.parse().expect("a number of rounds"));
    let part = arguments.next().unwrap_or_else(|| "all".to_owned());
    let rows = arguments.next().unwrap_or_default();
    let clock = Clock::named(&arguments.next().unwrap_or_default());
    let contender = arguments.next().unwrap_or_default();
    let chosen = |name: &str| part == name || part == "all";
    let caisson = caisson::Caisson::new();
    let qemu = qemu::Qemu::installed(&Path::new(SHARE).join("qemu"));
    if chosen("start") {
        let guest = Guest::of(initrd_of(&Path::new(SHARE).join("caisson-measured-guest")));
        start::measure(rounds, &contender, &caisson, &qemu, &guest);
    }
    if chosen("transfer") {
        let guest = Guest::of(initrd_of(&Path::new(SHARE).join("caisson-test-guest")));
        transfer::measure(rounds, clock, &rows, &caisson, &qemu, &guest);
    }
}
