use std::time::Duration;

use super::Event;

#[test]
fn an_execution_and_a_mark_are_read_with_their_times() {
    let line = "     caisson-vmm-812     [000] .....    35.000042: sched_process_exec: \
                filename=/usr/local/libexec/caisson/caisson-vmm pid=812 old_pid=812\n";
    let at = Duration::from_micros(35_000_042);
    assert_eq!(Event::of(line), Some(Event::Executed { pid: 812, at }));

    let line = "          vcpu-0-815     [000] d..1.    35.061200: kvm_pio: pio_write at 0x3f0 size 1 \
                count 1 val 0x1 \n";
    let at = Duration::from_micros(35_061_200);
    assert_eq!(Event::of(line), Some(Event::Marked { at }));
}

#[test]
fn other_lines_are_no_events() {
    for line in [
        "",
        "CPU:0 [LOST 12 EVENTS]\n",
        "x-1 [000] ..... 1.000000: sched_process_exec: filename=pid",
        "x-1 [000] ..... soon: kvm_pio: pio_write at 0x3f0 size 1",
    ] {
        assert_eq!(Event::of(line), None, "{line}");
    }
}
