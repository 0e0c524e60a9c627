//! The benchmark: Caisson beside runc, crun and gVisor, in one run, inside the testbed
//! (`cargo measure`).
//!
//! ```text
//! caisson-measure KINDS ROUNDS PART NAME COUNTS ROWS
//! ```
//!
//! KINDS are containers, pods and work, with commas; PART one part of them or all; NAME occurs in
//! the contenders' names, and ROWS in the rows of work; COUNTS are how many idle pods there are at once.
//!
//! Times are those of the client, from starting `ctr` or `crictl` to its end, the contenders taking
//! turns; those of work are taken by the program that works. Memory is that of idle containers on
//! the host.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has failed"
)]

mod bench;
mod chart;
mod containers;
mod contender;
mod cost;
mod installed;
mod liveness;
mod memory;
mod overhead;
mod peer;
mod pods;
mod returned;
mod table;
mod work;

use contender::{CAISSON, Contender};
use table::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    let rounds = argument(1).parse().expect("a number of rounds");
    let (only, name) = (argument(2), argument(3));
    let wanted = |part: &str| only == "all" || only == part;
    let contenders = Contender::present(name);
    let kinds: Vec<&str> = argument(0).split(',').collect();
    let mut table = Table::default();
    if kinds.contains(&"containers") {
        installed::measure(&contenders, &mut table);
        containers::measure(rounds, &contenders, &wanted, &mut table);
    }
    if kinds.contains(&"pods") {
        let at_once = argument(4).split(',');
        let at_once: Vec<usize> = at_once.filter_map(|count| count.parse().ok()).collect();
        pods::measure(rounds, &contenders, &at_once, &wanted, &mut table);
    }
    if kinds.contains(&"work") {
        let rows = argument(5);
        work::measure(rounds, &contenders, rows, &mut table);
        let ours = contenders.iter().any(|contender| contender.name == CAISSON);
        if ours && returned::ROW.contains(rows) {
            returned::measure(rounds, &mut table);
        }
    }
    println!("\n{rounds} rounds by turns: median ± the farthest round (of runc's)\n");
    print!("{}", table.markdown());
}
