#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use super::program::assemble;
use super::{Action, Condition, Filter};

const ARCHITECTURE: u32 = 0xc000_003e;

/// Executes the program as the kernel would; says what comes out, and after how many instructions.
fn run(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> (Action, usize) {
    let program = assemble(filter).unwrap();
    let mut data = vec![number, architecture, 0, 0];
    for argument in arguments {
        data.extend([argument as u32, (argument >> 32) as u32]);
    }
    let (mut at, mut accumulator, mut steps) = (0, 0u32, 0);
    loop {
        let instruction = program[at];
        let value = instruction.k;
        at += 1;
        steps += 1;
        let holds = match u32::from(instruction.code) {
            0x20 => {
                accumulator = data[value as usize / 4];
                continue;
            }
            0x54 => {
                accumulator &= value;
                continue;
            }
            0x05 => {
                at += value as usize;
                continue;
            }
            0x06 => {
                let action = match value {
                    0x7fff_0000 => Action::Allow,
                    0x8000_0000 => Action::Kill,
                    other => {
                        assert_eq!(other >> 16, 5, "{other:#x}");
                        Action::Fail(other as u16)
                    }
                };
                return (action, steps);
            }
            0x15 => accumulator == value,
            0x35 => accumulator >= value,
            0x25 => accumulator > value,
            other => unreachable!("{other:#x}"),
        };
        at += usize::from(if holds {
            instruction.jt
        } else {
            instruction.jf
        });
    }
}

fn verdict(filter: &Filter, number: u32, arguments: [u64; 6]) -> Action {
    run(filter, ARCHITECTURE, number, arguments).0
}

#[test]
fn exactly_the_calls_on_the_list_pass() {
    let lists: [&[i64]; 5] = [
        &[],
        &[0],
        &[7],
        &[0, 1, 2, 5, 9, 10, 11, 12, 300, 301, 450],
        &[3, 4, 5],
    ];
    for list in lists {
        let filter = Filter::new(Action::Kill).allow(list);
        assert_eq!(filter.allowed().count(), list.len());
        for number in 0..600 {
            let expected = match list.contains(&i64::from(number)) {
                true => Action::Allow,
                false => Action::Kill,
            };
            assert_eq!(
                verdict(&filter, number, [0; 6]),
                expected,
                "{number} of {list:?}"
            );
        }
        // Calls of the x32 ABI have a bit set.
        assert_eq!(verdict(&filter, 0x4000_0000, [0; 6]), Action::Kill);
    }
}

#[test]
fn the_numbers_of_other_architectures_count_for_nothing() {
    let filter = Filter::new(Action::Fail(1)).allow(&[0, 1, 2]);
    assert_eq!(run(&filter, 0x4000_0003, 1, [0; 6]).0, Action::Kill);
}

#[test]
fn arguments_decide_where_they_are_looked_at() {
    let filter = Filter::new(Action::Kill)
        .allow(&[15, 17])
        .allow_values(16, 1, &[0xae80, 0xae01, 7])
        .allow_if(9, &[Condition::without(2, 4)])
        .allow_if(157, &[Condition::equals(0, 23)])
        .allow_if(157, &[Condition::equals(0, 47), Condition::equals(1, 1)])
        .allow_if(157, &[Condition::equals(0, 48)])
        .fail(435, 38);
    assert_eq!(filter.allowed().count(), 5);
    let with = |number, first: u64, second: u64, third: u64| {
        verdict(&filter, number, [first, second, third, 0, 0, 0])
    };
    for request in [0xae80, 0xae01, 7] {
        assert_eq!(with(16, 3, request, 0), Action::Allow);
        // The kernel itself looks at the lower half only.
        assert_eq!(with(16, 3, request | 1 << 40, 0), Action::Allow);
    }
    assert_eq!(with(16, 0xae80, 0xae81, 0), Action::Kill);
    assert_eq!(with(9, 0, 0, 3), Action::Allow);
    assert_eq!(with(9, 0, 0, 7), Action::Kill);
    assert_eq!(with(157, 23, 9, 0), Action::Allow);
    assert_eq!(with(157, 47, 1, 0), Action::Allow);
    assert_eq!(with(157, 47, 2, 0), Action::Kill);
    // A rule that failed at its second condition leaves another argument behind.
    assert_eq!(with(157, 48, 2, 0), Action::Allow);
    assert_eq!(with(157, 1, 48, 0), Action::Kill);
    assert_eq!(with(435, 0, 0, 0), Action::Fail(38));
}

#[test]
fn a_call_is_found_by_halving() {
    let scattered: Vec<i64> = (0..64).map(|index| index * 5).collect();
    let filter = Filter::new(Action::Kill).allow(&scattered);
    // Three before the search, four halvings that leave four, and the end.
    for number in 0..400 {
        let (_, steps) = run(&filter, ARCHITECTURE, number, [0; 6]);
        assert!(steps <= 3 + 4 + 4 + 1, "{number}: {steps}");
    }
}

#[test]
fn a_long_list_with_conditions_everywhere_is_kept_to() {
    let mut filter = Filter::new(Action::Fail(1));
    for call in 0..400 {
        filter = match call % 3 {
            0 => filter.allow(&[call]),
            1 => filter.allow_values(call, 0, &[7, 9]),
            _ => filter,
        };
    }
    for number in 0..400 {
        let expected = |seven| match number % 3 {
            0 => Action::Allow,
            1 if seven => Action::Allow,
            _ => Action::Fail(1),
        };
        for first in [7, 8] {
            let done = verdict(&filter, number, [first, 0, 0, 0, 0, 0]);
            assert_eq!(done, expected(first == 7), "{number}");
        }
    }
}

#[test]
fn too_many_conditions_are_an_error() {
    let values: Vec<u32> = (0..200).collect();
    let filter = Filter::new(Action::Kill).allow_values(16, 1, &values);
    assert!(assemble(&filter).is_err());
}

#[test]
fn the_kernel_takes_the_program_and_sees_to_it() {
    let refused = std::thread::spawn(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        // Everything passes but one call.
        let all: Vec<i64> = (0..1000)
            .filter(|call| *call != libc::SYS_getppid)
            .collect();
        let filter = Filter::new(Action::Kill)
            .allow(&all)
            .fail(libc::SYS_getppid, 7);
        super::install(&filter).unwrap();
        getppid()
    });
    assert_eq!(refused.join().unwrap(), Some(7));
}

/// The error number of getppid, which has none without a filter.
#[allow(unsafe_code)]
fn getppid() -> Option<i32> {
    // SAFETY: getppid takes nothing and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_getppid) };
    (result < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}
