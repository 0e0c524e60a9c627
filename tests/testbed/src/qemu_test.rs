use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use super::{Acceleration, CONSOLE_LINES, Machine, MachineOptions, keep_last_lines, major_of};

fn machine(options: MachineOptions) -> Machine<'static> {
    Machine {
        kernel: Path::new("/k"),
        initramfs: Path::new("/i"),
        disks: &[],
        share: None,
        options,
        acceleration: Acceleration::Emulation,
    }
}

#[test]
fn the_version_is_read_from_what_distributions_print() {
    assert_eq!(
        major_of("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\n"),
        Some(7)
    );
    assert_eq!(major_of("QEMU emulator version 10.0.2\n"), Some(10));
    assert_eq!(major_of("something else"), None);
}

#[test]
fn one_emulated_processor_is_the_default() {
    let words = machine(MachineOptions::default())
        .processor()
        .unwrap()
        .join(" ");
    assert!(words.contains("-smp 1"), "{words}");
    assert!(words.contains("thread=multi"), "{words}");
    assert!(words.contains("-m 4096M"), "{words}");
    assert!(!words.contains("icount"), "{words}");
}

#[test]
fn counting_instructions_fixes_everything_that_varies() {
    let machine = machine(MachineOptions {
        icount: true,
        ..MachineOptions::default()
    });
    let words = machine.processor().unwrap().join(" ");
    for word in [
        "thread=single",
        "-icount shift=0,sleep=off",
        "-seed 1",
        "clock=vm",
    ] {
        assert!(words.contains(word), "{word}: {words}");
    }
    assert!(machine.kernel_parameters().contains("nokaslr norandmaps"));
}

#[test]
fn no_processor_is_refused() {
    let options = MachineOptions {
        cpus: Some(0),
        ..MachineOptions::default()
    };
    assert!(machine(options).processor().is_err());
}

#[test]
fn the_console_keeps_its_last_lines_and_no_endless_one() {
    let mut text: String = (0..100).map(|n| format!("line {n}\r\n")).collect();
    text.push_str("warning: TCG doesn't support requested feature: x\n");
    let kept = Mutex::new(VecDeque::new());
    keep_last_lines(text.as_bytes(), &kept);
    let lines = kept.lock().unwrap();
    assert_eq!(lines.len(), CONSOLE_LINES);
    assert_eq!(lines.back().unwrap(), "line 99");

    let kept = Mutex::new(VecDeque::new());
    keep_last_lines(vec![b'x'; 1_000_000].as_slice(), &kept);
    let longest = kept.lock().unwrap().iter().map(String::len).max().unwrap();
    assert!(longest <= 400);
}
