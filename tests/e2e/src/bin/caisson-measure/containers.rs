//! Containers of `ctr`: their life, calls while they run, and what an idle one takes.

use std::fs;

use caisson_e2e::{BUSYBOX, Container};

use crate::chart;
use crate::contender::Contender;
use crate::liveness;
use crate::memory::Usage;
use crate::table::{Times, time};

pub(crate) fn measure(rounds: usize, contenders: &[&Contender], wanted: &dyn Fn(&str) -> bool) {
    if wanted("start") {
        start_to_end(rounds, contenders);
    }
    if wanted("exec") {
        exec(rounds, contenders);
    }
    if wanted("idle") {
        idle();
    }
}

/// `ctr run --rm … true`, the contenders taking turns.
fn start_to_end(rounds: usize, contenders: &[&Contender]) {
    let mut times = Times::default();
    // The first round warms the caches and is not counted.
    for round in 0..=rounds {
        for contender in contenders {
            let (finished, took) = time(|| contender.run("timed"));
            let _ = finished.ok();
            if round > 0 {
                times.note(contender.name, took);
            }
        }
    }
    times.print(&format!("ctr run --rm {BUSYBOX} true, {rounds} rounds"));
}

/// `ctr task exec … true` in a running container, the contenders taking turns.
fn exec(rounds: usize, contenders: &[&Contender]) {
    let mut times = Times::default();
    for contender in contenders {
        contender.start();
    }
    for round in 0..=rounds {
        for contender in contenders {
            let ((), took) = time(|| contender.exec(&format!("e{round}")));
            if round > 0 {
                times.note(contender.name, took);
            }
        }
    }
    for contender in contenders {
        contender.remove();
    }
    times.print(&format!("ctr task exec … true, {rounds} rounds"));
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
