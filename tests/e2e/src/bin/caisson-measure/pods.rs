//! Pods through CRI, as a kubelet runs them: their start and their end, many at once, and what idle
//! ones take.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox};
use serde_json::json;

use crate::contender::{CAISSON, Contender};
use crate::memory::{Group, Usage, available};
use crate::overhead;
use crate::table::{Aim, Table, ms, time};

/// Seconds that a call may take. A kubelet gives up after 120, but not in a machine that is 10 to 30
/// times slower.
const PATIENCE: u32 = 3600;
/// The free pages of a guest are reported within seconds after they got free; then a pod is idle.
const SETTLED: Duration = Duration::from_secs(10);
/// How long nothing is said while pods start or end.
const QUIET: Duration = Duration::from_secs(30);
/// Four calls of crictl, two calls, and what a call takes of that.
const START: &str = "pod: crictl runp, create and start";
const END: &str = "pod: crictl stopp and rmp";
const CALL: &str = "crictl version";
/// MiB of an idle pod.
const IDLE: f64 = 30.0;
/// The control group of the pods.
const GROUP: &str = "/measured";

pub(crate) fn measure(
    rounds: usize,
    contenders: &[&'static Contender],
    at_once: &[usize],
    wanted: &dyn Fn(&str) -> bool,
    table: &mut Table,
) {
    let Some(cri) = Cri::patient(PATIENCE) else {
        return;
    };
    let group = Group::new(GROUP);
    let contenders: Vec<_> = contenders
        .iter()
        .copied()
        .filter(|contender| runs_pods(&cri, contender))
        .collect();
    if wanted("start") {
        one_by_one(&cri, rounds, &contenders, table);
    }
    if wanted("idle") {
        println!("\nidle pods: memory of each in KiB; times in s");
        println!(
            "{:<10} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "pods", "all run", "PSS", "of guests", "of host", "in group", "all gone"
        );
        for count in at_once {
            for contender in &contenders {
                idle(&cri, contender, *count, &group, table);
            }
        }
    }
    if wanted("overhead") {
        overhead::measure(&cri, &group);
    }
}

/// Whether a pod of this contender runs here. The first one is slower than the others in any case.
fn runs_pods(cri: &Cri, contender: &Contender) -> bool {
    if contender.handler.is_none() {
        println!("without pods of {}: it has no handler", contender.name);
        return false;
    }
    eprintln!("trying a pod of {}", contender.name);
    let tried = catch_unwind(AssertUnwindSafe(|| start(cri, contender, "tried")));
    if tried.is_err() {
        println!("without pods of {}: see above", contender.name);
    }
    tried.is_ok()
}

/// A pod with one container that sleeps.
fn start(cri: &Cri, contender: &Contender, name: &str) -> PodSandbox {
    let config = PodConfig::new(name)
        .with_handler(contender.handler.unwrap_or_default())
        .with(json!({"linux": {"cgroup_parent": format!("{GROUP}/{name}")}}));
    let pod = PodSandbox::run(cri, &config);
    let _ = pod.start("main", &["sleep", "100000"]);
    pod
}

/// Start and end of a pod, the contenders taking turns.
fn one_by_one(cri: &Cri, rounds: usize, contenders: &[&'static Contender], table: &mut Table) {
    for round in 0..=rounds {
        eprintln!("pods one by one, round {round}");
        for contender in contenders {
            let (pod, started) = time(|| start(cri, contender, &format!("turn{round}")));
            let ((), ended) = time(|| drop(pod));
            let (_, call) = time(|| cri.call(&["version"]).ok());
            table.note(round, START, contender.name, started);
            table.note(round, END, contender.name, ended);
            table.note(round, CALL, contender.name, call);
        }
    }
    for row in [START, END, CALL] {
        table.done(row);
    }
}

/// Many pods at once: how long until all run, what each takes when idle, how long until all are gone.
fn idle(cri: &Cri, contender: &Contender, count: usize, group: &Group, table: &mut Table) {
    let ours = contender.name == CAISSON;
    eprintln!("{count} pods of {}", contender.name);
    let clean = ours.then(CleanMachine::watch);
    let (before, free) = (Usage::processes(), available());
    let (pods, started) = time(|| {
        all_of(0..count, |number| {
            start(cri, contender, &format!("idle{number}"))
        })
    });
    let run = pods.len();
    if run < count {
        println!("{}: {run} of {count} pods run, see above", contender.name);
    }
    thread::sleep(SETTLED);
    let each = |kib: u64| kib / u64::try_from(run).unwrap_or(1).max(1);
    let usage = Usage::since(&before);
    let host = free.saturating_sub(available());
    let charged = group.current();
    let ((), ended) = time(|| drop(all_of(pods, drop)));
    println!(
        "{:<10} {run:>5} {:>9.1} {:>9} {:>9} {:>9} {:>9} {:>9.1}",
        contender.name,
        ms(started) / 1000.0,
        each(usage.total()),
        each(usage.guest()),
        each(host),
        each(charged),
        ms(ended) / 1000.0,
    );
    let who = contender.name;
    let memory = format!("memory of each of {count} idle pods, PSS");
    table.once(&memory, "MiB", who, each(usage.total()) as f64 / 1024.0);
    table.aim(&memory, Aim::Most(IDLE));
    table.once(
        &format!("{count} pods at once, until all run"),
        "s",
        who,
        started.as_secs_f64(),
    );
    table.once(
        &format!("{count} pods at once, until all are gone"),
        "s",
        who,
        ended.as_secs_f64(),
    );
    if ours {
        usage.print(u64::try_from(run).unwrap_or(1).max(1));
    }
    // Nothing of ours may be left.
    drop(clean);
}

/// Does something with each in a thread of its own; what fails is left out.
fn all_of<T: Send, R: Send>(
    each: impl IntoIterator<Item = T>,
    what: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let what = &what;
    let (running, all_ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let thread = |one| {
            let running = running.clone();
            scope.spawn(move || {
                let _running = running;
                what(one)
            })
        };
        let threads: Vec<_> = each.into_iter().map(thread).collect();
        drop(running);
        // A testbed that says nothing for minutes is taken for one that hangs.
        while all_ended.recv_timeout(QUIET) == Err(RecvTimeoutError::Timeout) {
            let ended = threads.iter().filter(|thread| thread.is_finished());
            eprintln!("{} of {} done", ended.count(), threads.len());
        }
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.filter_map(Result::ok).collect()
    })
}
