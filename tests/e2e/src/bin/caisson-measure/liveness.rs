//! State and Pids over the shim's socket, while the guest runs and while it stands still.

use std::time::Duration;

use caisson_e2e::{Container, Shim, signal};
use rustix::process::Signal;

use crate::table::{ms, time};

/// Calls that are timed of each kind.
const CALLS: usize = 1000;
/// What they may take at the 99th percentile: containerd asks every pod for them when it comes back,
/// and its liveness probes do not wait for a guest.
const AIM: Duration = Duration::from_millis(2);

pub(crate) fn measure(container: &Container) {
    let shim = Shim::of("measured");
    let vmm = container.vmm_pid();
    println!("\nState and Pids over the shim's socket, {CALLS} calls each, in ms");
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>10}",
        "", "median", "99 %", "max", "aim (99 %)"
    );
    let times = |call: &dyn Fn()| {
        let mut times: Vec<Duration> = (0..CALLS).map(|_| time(call).1).collect();
        times.sort();
        [CALLS / 2, CALLS * 99 / 100, CALLS - 1]
            .map(|index| times.get(index).copied().unwrap_or_default())
    };
    for (guest, before) in [("running", Signal::CONT), ("frozen", Signal::STOP)] {
        signal(vmm, before);
        let calls: [(&str, &dyn Fn()); 2] = [
            ("State", &|| {
                let _ = shim.state("").expect("State is answered");
            }),
            ("Pids", &|| {
                let _ = shim.pids().expect("Pids is answered");
            }),
        ];
        for (name, call) in calls {
            let [median, most, max] = times(call).map(ms);
            println!(
                "{:<24} {median:>10.2} {most:>10.2} {max:>10.2} {:>10.2}",
                format!("{name}, guest {guest}"),
                ms(AIM)
            );
        }
        signal(vmm, Signal::CONT);
    }
}
