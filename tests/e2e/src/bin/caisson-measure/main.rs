//! The benchmark: Caisson beside runc, crun and gVisor, in one run, inside the testbed
//! (`cargo measure`, `cargo measure --pods`).
//!
//! Times are those of the client, from starting `ctr` or `crictl` to its end, the contenders taking
//! turns. Memory is that of idle containers on the host.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]

mod chart;
mod containers;
mod contender;
mod liveness;
mod memory;
mod overhead;
mod pods;
mod table;

use contender::Contender;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    let rounds = argument(1).parse().expect("a number of rounds");
    let (only, name) = (argument(2), argument(3));
    let wanted = |part: &str| only == "all" || only == part;
    let contenders = Contender::present(name);
    if argument(0) == "pods" {
        let at_once = argument(4).split(',');
        let at_once: Vec<usize> = at_once.filter_map(|count| count.parse().ok()).collect();
        pods::measure(rounds, &contenders, &at_once, &wanted);
    } else {
        containers::measure(rounds, &contenders, &wanted);
    }
}
