//! Many pods at once, as when a node comes back.

use std::thread;

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox};

/// As many as the testbed starts in a minute; `cargo measure --pods` starts fifty.
const PODS: usize = 4;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn pods_that_start_at_once_all_run_and_all_end() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::patient(600) else { return };
    let names: Vec<String> = (0..PODS).map(|number| format!("pod{number}")).collect();
    let pods = all(&names, |name| {
        let pod = PodSandbox::run(&cri, &PodConfig::new(name));
        let script = ["sh", "-c", "hostname; exec sleep 1000"];
        let main = pod.start("main", &script);
        (pod, main)
    });
    for (name, (pod, main)) in names.iter().zip(&pods) {
        assert_eq!(pod.state(), "SANDBOX_READY");
        assert_eq!(main.shell("hostname"), *name);
    }
    let ends = all(&pods, |(pod, main)| {
        let _ = pod.stop().ok();
        main.ended().exit_code
    });
    assert_eq!(ends, [137; PODS]);
}

/// Does something with each in a thread of its own.
#[track_caller]
fn all<T: Sync, R: Send>(each: &[T], what: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let what = &what;
    thread::scope(|scope| {
        let threads: Vec<_> = each.iter().map(|one| scope.spawn(|| what(one))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    })
}
