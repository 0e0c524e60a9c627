//! A filter as a program for the kernel: classic BPF on `struct seccomp_data`.
#![allow(unsafe_code)]

use std::io;

use super::{Action, Condition, Filter, Verdict};

/// Where things are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Loads a word of `struct seccomp_data`.
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;

/// `AUDIT_ARCH_X86_64`: a 64-bit machine, little endian, EM_X86_64.
const X86_64: u32 = 0xc000_003e;

type Instruction = libc::sock_filter;

fn instruction(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k: value,
    }
}

/// Goes on with the next instruction if the comparison holds, and else beyond `skipped` more.
fn unless(code: u16, value: u32, skipped: usize) -> io::Result<Instruction> {
    Ok(Instruction {
        jf: distance(skipped)?,
        ..instruction(code, value)
    })
}

/// A conditional jump reaches 255 instructions. Only a list of conditions could be longer.
fn distance(instructions: usize) -> io::Result<u8> {
    u8::try_from(instructions)
        .map_err(|_| io::Error::other("a system call has too many conditions"))
}

fn end(action: Action) -> Instruction {
    let value = match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Fail(error) => libc::SECCOMP_RET_ERRNO | u32::from(error),
        Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    instruction(RETURN, value)
}

/// Neighbours with one fate.
#[derive(Debug)]
struct Run<'a> {
    first: u32,
    last: u32,
    verdict: &'a Verdict,
}

/// The program.
pub(super) fn assemble(filter: &Filter) -> io::Result<Vec<Instruction>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for (number, verdict) in &filter.calls {
        match runs.last_mut() {
            Some(run)
                if run.last.checked_add(1) == Some(*number)
                    && run.verdict == verdict
                    && matches!(verdict, Verdict::Always(_)) =>
            {
                run.last = *number;
            }
            _ => runs.push(Run {
                first: *number,
                last: *number,
                verdict,
            }),
        }
    }
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE),
        // The numbers mean something else in other architectures.
        Instruction {
            jt: 1,
            ..instruction(IF_EQUAL, X86_64)
        },
        end(Action::Kill),
        instruction(LOAD, NUMBER),
    ];
    program.extend(search(&runs, filter.otherwise)?);
    Ok(program)
}

/// So many neighbours are looked through one by one: a shorter program is set faster, and another
/// halving would save less.
const SHORT: usize = 6;

/// Finds the number in the accumulator among `runs`, and ends.
fn search(runs: &[Run<'_>], otherwise: Action) -> io::Result<Vec<Instruction>> {
    let allowed = |run: &Run<'_>| *run.verdict == Verdict::Always(Action::Allow);
    match runs {
        [] => Ok(vec![end(otherwise)]),
        _ if runs.len() <= SHORT && runs.iter().all(allowed) => look_through(runs, otherwise),
        [run] => {
            let found = decide(run.verdict, otherwise)?;
            let mut program = Vec::with_capacity(found.len() + 3);
            program.push(unless(IF_AT_LEAST, run.first, found.len() + 1)?);
            program.push(Instruction {
                jt: distance(found.len())?,
                ..instruction(IF_GREATER, run.last)
            });
            program.extend(found);
            program.push(end(otherwise));
            Ok(program)
        }
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            let middle = upper.first().map_or(u32::MAX, |run| run.first);
            let below = search(lower, otherwise)?;
            let mut program = match distance(below.len()) {
                Ok(distance) => vec![Instruction {
                    jt: distance,
                    ..instruction(IF_AT_LEAST, middle)
                }],
                // Farther than a comparison can jump by itself.
                Err(_) => vec![
                    Instruction {
                        jf: 1,
                        ..instruction(IF_AT_LEAST, middle)
                    },
                    instruction(JUMP, u32::try_from(below.len()).map_err(io::Error::other)?),
                ],
            };
            program.extend(below);
            program.extend(search(upper, otherwise)?);
            Ok(program)
        }
    }
}

/// Compares the number with `runs`, which are in order, one after another.
fn look_through(runs: &[Run<'_>], otherwise: Action) -> io::Result<Vec<Instruction>> {
    let length = |run: &Run<'_>| if run.first == run.last { 1 } else { 2 };
    let mut rest: usize = runs.iter().map(length).sum();
    let mut program = Vec::with_capacity(rest + 2);
    for run in runs {
        rest -= length(run);
        // Behind the comparisons that follow are the two ends: otherwise, and this.
        let (denied, allowed) = (rest, distance(rest + 1)?);
        if run.first == run.last {
            program.push(Instruction {
                jt: allowed,
                ..instruction(IF_EQUAL, run.first)
            });
        } else {
            // What is below this one is between two, and so on no list.
            program.push(unless(IF_AT_LEAST, run.first, denied + 1)?);
            program.push(Instruction {
                jf: allowed,
                ..instruction(IF_GREATER, run.last)
            });
        }
    }
    program.push(end(otherwise));
    program.push(end(Action::Allow));
    Ok(program)
}

/// What to do with a call that was found.
fn decide(verdict: &Verdict, otherwise: Action) -> io::Result<Vec<Instruction>> {
    let rules = match verdict {
        Verdict::Always(action) => return Ok(vec![end(*action)]),
        Verdict::If(rules) => rules,
    };
    let mut program = Vec::new();
    let mut loaded = None;
    for rule in rules {
        let mut tests = Vec::new();
        for (index, condition) in rule.iter().enumerate() {
            // Where the rule before failed at once, its argument is still there.
            let needed = index > 0 || loaded != Some(condition.argument);
            tests.push(test(*condition, needed));
        }
        let mut rest: usize = tests.iter().map(Vec::len).sum::<usize>() + 1;
        for mut test in tests {
            rest -= test.len();
            if let Some(comparison) = test.last_mut() {
                comparison.jf = distance(rest)?;
            }
            program.extend(test);
        }
        program.push(end(Action::Allow));
        loaded = match rule[..] {
            [condition] if condition.mask == u32::MAX => Some(condition.argument),
            _ => None,
        };
    }
    program.push(end(otherwise));
    Ok(program)
}

/// Compares an argument; the comparison is the last instruction.
fn test(condition: Condition, load: bool) -> Vec<Instruction> {
    let Condition {
        argument,
        mask,
        value,
    } = condition;
    let mut test = Vec::new();
    if load {
        // The lower half, which comes first.
        test.push(instruction(LOAD, ARGUMENTS + 8 * u32::from(argument)));
    }
    if mask != u32::MAX {
        test.push(instruction(AND, mask));
    }
    test.push(instruction(IF_EQUAL, value));
    test
}

/// Sets the filter for this thread and those it starts from now on, for good, in addition to those
/// that were set before: of what they say, the worst counts. New privileges must have been renounced.
///
/// # Errors
/// Fails where the kernel has no seccomp, or a call has more conditions than fit.
pub fn install(filter: &Filter) -> io::Result<()> {
    let mut program = assemble(filter)?;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is as long as it says, and the kernel copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
