use super::{entry, is};

#[test]
fn a_line_of_a_histogram_names_a_thread_and_a_value() {
    let line =
        "{ common_pid: vcpu0           [       317], id:                   10 } hitcount:  12";
    assert_eq!(entry(line), Some(("vcpu0", 0x10)));
    let line =
        "{ common_pid: caisson-vmm     [      1317], cmd:             ae80 } hitcount: 12345";
    assert_eq!(entry(line), Some(("caisson-vmm", 0xae80)));
    for line in [
        "",
        "# event histogram",
        "Totals:",
        "    Hits: 13",
        "{ id: 3 } hitcount: 3",
    ] {
        assert_eq!(entry(line), None, "{line}");
    }
}

#[test]
fn threads_of_one_kind_are_told_apart_by_number() {
    assert!(is("vcpu0", "vcpu") && is("vcpu31", "vcpu") && is("io", "io"));
    assert!(!is("iou-wrk-317", "io") && !is("caisson-fs", "caisson-vmm"));
}
