//! Which devices a container may use: the rules of the OCI specification (config-linux.md, "Allowed
//! Device list") as a BPF program that the kernel asks at every open and mknod in the cgroup.

use std::fs::File;
use std::os::fd::AsFd;

use caisson_bpf::instruction::{
    AND, EXIT, JUMP_IF, JUMP_UNLESS, LOAD_WORD, MOVE, MOVE_REGISTER, SHIFT_RIGHT, instruction,
};
use caisson_bpf::{Kind, attach_to_cgroup, load};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::Cgroup;
use crate::error::{AgentError, Doing};

/// Rules of one container. Privileged containers name every device of the host, which is a few
/// hundred.
const MAX_RULES: usize = 4096;

/// `BPF_DEVCG_ACC_*`.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// One rule; `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

const fn allowed(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What every container may use, whatever its rules say, as in runc: nodes of any device may be
/// made but not opened; null, zero, full, random, urandom, tty, and terminals.
const ALWAYS: [Rule; 10] = [
    allowed(CHAR, None, None, MKNOD),
    allowed(BLOCK, None, None, MKNOD),
    allowed(CHAR, Some(1), Some(3), ALL),
    allowed(CHAR, Some(1), Some(5), ALL),
    allowed(CHAR, Some(1), Some(7), ALL),
    allowed(CHAR, Some(1), Some(8), ALL),
    allowed(CHAR, Some(1), Some(9), ALL),
    allowed(CHAR, Some(5), Some(0), ALL),
    allowed(CHAR, Some(5), Some(2), ALL),
    allowed(CHAR, Some(136), None, ALL),
];

/// Whether these resources let a container use every device, as those of a privileged one do. Not
/// so without rules, which is how most containers are written that need none.
#[must_use]
pub fn all_allowed(resources: Option<&LinuxResources>) -> bool {
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    let rules = rules.unwrap_or_default();
    !rules.is_empty() && parse(rules).is_ok_and(|rules| allows_everything(&rules))
}

impl Cgroup {
    /// Makes the kernel keep the rules about devices. Without rules there is nothing to keep.
    ///
    /// # Errors
    /// [`AgentError::InvalidArgument`] for a rule that is none, [`AgentError::Internal`] if the
    /// kernel refuses the program.
    pub fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), AgentError> {
        let rules = parse(rules)?;
        if allows_everything(&rules) {
            return Ok(());
        }
        load(Kind::CgroupDevice, &program(&rules))
            .and_then(|program| attach_to_cgroup(&program, File::open(self.path())?.as_fd()))
            .doing("apply the device rules (CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF)")
    }
}

fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, AgentError> {
    if rules.len() > MAX_RULES {
        return Err(AgentError::InvalidArgument(format!(
            "{} device rules are more than {MAX_RULES}",
            rules.len()
        )));
    }
    rules.iter().map(parse_rule).collect()
}

fn parse_rule(rule: &LinuxDeviceCgroup) -> Result<Rule, AgentError> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
        LinuxDeviceType::P => {
            return Err(AgentError::InvalidArgument(
                "a device rule cannot be about pipes".to_owned(),
            ));
        }
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|number| *number >= 0)
            .map(Some)
            .ok_or_else(|| AgentError::InvalidArgument(format!("{number} is no device number"))),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => {
                return Err(AgentError::InvalidArgument(format!(
                    "{letter:?} in a device rule is not an access (r, w, m)"
                )));
            }
        };
    }
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access,
    })
}

impl Rule {
    /// Whether it matches every access to every device.
    fn is_unconditional(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// Whether there is no rule, or the last one, which counts, allows all that can be.
fn allows_everything(rules: &[Rule]) -> bool {
    rules
        .last()
        .is_none_or(|rule| rule.allow && rule.is_unconditional())
}

/// Registers: the answer, the argument and a scratch, and the four parts of the question.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program: the last rule that matches decides, so the rules are tried from the last to the
/// first; what no rule mentions is denied.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        // `struct bpf_cgroup_dev_ctx`: access << 16 | kind, major, minor.
        instruction(LOAD_WORD, KIND, SCRATCH, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, SCRATCH, 4, 0),
        instruction(LOAD_WORD, MINOR, SCRATCH, 8, 0),
    ];
    for rule in rules.iter().chain(&ALWAYS).rev() {
        append(&mut program, rule);
        if rule.is_unconditional() {
            // The kernel refuses instructions that can never be reached.
            return program;
        }
    }
    program.extend([
        instruction(MOVE, ANSWER, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    program
}

fn append(program: &mut Vec<u64>, rule: &Rule) {
    // Conditions that lead past the rule: code, register, value.
    let mut conditions = Vec::with_capacity(4);
    let parts = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
    conditions.extend(
        parts
            .iter()
            .filter_map(|(register, value)| Some((JUMP_UNLESS, *register, (*value)?))),
    );
    let mut masked = Vec::new();
    if rule.access != ALL {
        // An allowance must cover all that is asked for, a prohibition any of it.
        let (mask, jump) = if rule.allow {
            (!rule.access, JUMP_UNLESS)
        } else {
            (rule.access, JUMP_IF)
        };
        masked.push(instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
        masked.push(instruction(AND, SCRATCH, 0, 0, mask));
        conditions.push((jump, SCRATCH, 0));
    }
    let decision = [
        instruction(MOVE, ANSWER, 0, 0, i32::from(rule.allow)),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    program.extend(masked);
    let count = conditions.len();
    for (at, (code, register, value)) in conditions.into_iter().enumerate() {
        // Relative to the next instruction; a rule has a handful of them.
        let rest = count.saturating_sub(at + 1) + decision.len();
        program.push(instruction(
            code,
            register,
            0,
            i16::try_from(rest).unwrap_or(i16::MAX),
            value,
        ));
    }
    program.extend(decision);
}

#[cfg(test)]
#[path = "devices_test.rs"]
mod tests;
