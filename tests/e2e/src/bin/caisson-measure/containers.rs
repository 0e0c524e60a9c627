//! Containers of `ctr`: their life, calls while they run, and what an idle one takes.

use std::fs;

use caisson_e2e::{BUSYBOX, Container};

use crate::chart;
use crate::contender::Contender;
use crate::cost::{Cost, cost};
use crate::liveness;
use crate::memory::Usage;
use crate::table::{Aim, RUNC, Table};

/// The two rows of a call: the time until it is done, and that of the processors.
struct Call {
    elapsed: &'static str,
    busy: &'static str,
}

const START: Call = Call {
    elapsed: "ctr run --rm docker.io/library/busybox:latest true",
    busy: "ctr run, processor time of host and guest",
};
const EXEC: Call = Call {
    elapsed: "ctr task exec … true",
    busy: "ctr task exec, processor time of host and guest",
};
/// What a call may take of runc's.
const AIM: Aim = Aim::Times(1.5, RUNC);

impl Call {
    fn note(&self, round: usize, contender: &Contender, cost: Cost, table: &mut Table) {
        table.note(round, self.elapsed, contender.name, cost.elapsed);
        if let Some(busy) = cost.busy {
            table.note(round, self.busy, contender.name, busy);
        }
    }

    fn done(&self, table: &mut Table) {
        for row in [self.elapsed, self.busy] {
            table.aim(row, AIM);
            table.done(row);
        }
    }
}

pub(crate) fn measure(
    rounds: usize,
    contenders: &[&'static Contender],
    wanted: &dyn Fn(&str) -> bool,
    table: &mut Table,
) {
    if wanted("start") {
        start_to_end(rounds, contenders, table);
    }
    if wanted("exec") {
        exec(rounds, contenders, table);
    }
    if wanted("idle") {
        idle();
    }
}

/// `ctr run --rm … true`, the contenders taking turns.
fn start_to_end(rounds: usize, contenders: &[&'static Contender], table: &mut Table) {
    for round in 0..=rounds {
        for contender in contenders {
            let (finished, cost) = cost(|| contender.run("timed"));
            let _ = finished.ok();
            START.note(round, contender, cost, table);
        }
    }
    START.done(table);
}

/// `ctr task exec … true` in a running container, the contenders taking turns.
fn exec(rounds: usize, contenders: &[&'static Contender], table: &mut Table) {
    for contender in contenders {
        contender.start();
    }
    for round in 0..=rounds {
        for contender in contenders {
            let ((), cost) = cost(|| contender.exec(&format!("e{round}")));
            EXEC.note(round, contender, cost, table);
        }
    }
    for contender in contenders {
        contender.remove();
    }
    EXEC.done(table);
}

/// One container of ours: the phases of its start, its memory, and what it answers.
fn idle() {
    let before = Usage::processes();
    let container = Container::start(BUSYBOX, "measured", &["sh", "-c", "echo; sleep 1000"]);
    // An exec after which the container is certainly idle, and its first output delivered.
    let _ = container.exec(&["true"]).finish().ok();
    let notes = fs::read_to_string("/run/caisson/default/measured/phases");
    println!("\nphases of one start (ms since the shim's start)");
    let notes = notes.expect("the shim notes its phases");
    print!("{notes}");
    let title = format!("Caisson: {BUSYBOX}, from the shim's start to the first output");
    let drawn = fs::write(chart::FILE, chart::svg(&title, &notes));
    drawn.expect("the folder is shared to write");
    println!("\nmemory of one idle container, proportional set size");
    Usage::since(&before).print(1);
    liveness::measure(&container);
}
