//! Which system calls a thread may make from some point on (seccomp(2)).
//!
//! A filter is a list of calls, some with conditions on their arguments; what happens to every
//! other call is the filter's own choice. Unlike what our libraries would make of it, the program
//! for the kernel searches: it halves the list with every comparison. The kernel executes it when a
//! call is made, and for each of the some nine hundred calls there are when it is set, to learn which
//! need no look: a walk through the list was half of what the file server's start cost.

mod program;

use std::collections::BTreeMap;

pub use program::install;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Fail(u16),
    /// The process ends, by SIGSYS.
    Kill,
}

/// A condition on the lower half of an argument, which is all that the kernel looks at in the
/// arguments that we check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    argument: u8,
    mask: u32,
    value: u32,
}

impl Condition {
    /// Argument `argument`, counted from 0 to 5, is `value`.
    #[must_use]
    pub const fn equals(argument: u8, value: u32) -> Self {
        Self {
            argument,
            mask: u32::MAX,
            value,
        }
    }

    /// It has none of `bits`.
    #[must_use]
    pub const fn without(argument: u8, bits: u32) -> Self {
        Self {
            argument,
            mask: bits,
            value: 0,
        }
    }
}

/// What is known of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Always(Action),
    /// It is made if all conditions of one of the rules hold.
    If(Vec<Vec<Condition>>),
}

/// A list of calls.
#[derive(Debug, Clone)]
pub struct Filter {
    calls: BTreeMap<u32, Verdict>,
    otherwise: Action,
}

impl Filter {
    /// A filter that lets no call pass: `otherwise` happens to all.
    #[must_use]
    pub fn new(otherwise: Action) -> Self {
        Self {
            calls: BTreeMap::new(),
            otherwise,
        }
    }

    /// Lets `calls` pass.
    #[must_use]
    pub fn allow(mut self, calls: &[i64]) -> Self {
        for call in calls {
            self.put(*call, Verdict::Always(Action::Allow));
        }
        self
    }

    /// Lets `call` fail with an error number instead of what happens to others.
    #[must_use]
    pub fn fail(mut self, call: i64, error: u16) -> Self {
        self.put(call, Verdict::Always(Action::Fail(error)));
        self
    }

    /// Lets `call` pass if all of `conditions` hold, or those of another rule for it.
    #[must_use]
    pub fn allow_if(mut self, call: i64, conditions: &[Condition]) -> Self {
        let number = number(call);
        match self.calls.get_mut(&number) {
            Some(Verdict::If(rules)) => rules.push(conditions.to_vec()),
            _ => {
                self.calls
                    .insert(number, Verdict::If(vec![conditions.to_vec()]));
            }
        }
        self
    }

    /// Lets `call` pass if its argument `argument` is one of `values`.
    #[must_use]
    pub fn allow_values(self, call: i64, argument: u8, values: &[u32]) -> Self {
        values.iter().fold(self, |filter, value| {
            filter.allow_if(call, &[Condition::equals(argument, *value)])
        })
    }

    /// The numbers of the calls that are let pass, all or some of them.
    pub fn allowed(&self) -> impl Iterator<Item = u32> {
        let passes = |verdict: &Verdict| !matches!(verdict, Verdict::Always(Action::Fail(_)));
        let passing = self
            .calls
            .iter()
            .filter(move |(_, verdict)| passes(verdict));
        passing.map(|(number, _)| *number)
    }

    /// The values of argument `argument` with which `call` is let pass.
    pub fn allowed_values(&self, call: i64, argument: u8) -> impl Iterator<Item = u32> {
        let rules = match self.calls.get(&number(call)) {
            Some(Verdict::If(rules)) => rules.as_slice(),
            _ => &[],
        };
        let of_argument = move |condition: &&Condition| {
            (condition.argument, condition.mask) == (argument, u32::MAX)
        };
        let conditions = rules.iter().flatten().filter(of_argument);
        conditions.map(|condition| condition.value)
    }

    fn put(&mut self, call: i64, verdict: Verdict) {
        self.calls.insert(number(call), verdict);
    }
}

/// The number of a system call, as the kernel shows it to the filter. What `libc` calls a number is
/// one; another value would be a call that does not exist.
fn number(call: i64) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
