//! Putting the end of a machine into words.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use caisson_control::{Exit, ExitReason};

use crate::guest_text;
use crate::{VmEnd, VmEndKind};

/// What the VMM reported.
pub(super) fn reported(exit: &Exit) -> VmEnd {
    let console = guest_text::console(&exit.console);
    let (kind, description) = match &exit.reason {
        ExitReason::Stopped => (VmEndKind::Stopped, "the virtual machine was stopped".into()),
        ExitReason::Shutdown => (
            VmEndKind::Shutdown,
            with_console("the guest shut itself down", &console),
        ),
        ExitReason::Panic => (
            VmEndKind::Panic,
            with_console("the guest's kernel panicked", &console),
        ),
        ExitReason::Failed { message } => (
            VmEndKind::Failed,
            with_console(
                &format!("the virtual machine failed: {}", guest_text::line(message)),
                &console,
            ),
        ),
    };
    VmEnd {
        kind,
        description,
        console,
    }
}

/// A helper ended without a word.
pub(super) fn exited(name: &str, status: ExitStatus, last_lines: &str) -> VmEnd {
    let what = match (status.signal(), status.code()) {
        (Some(libc::SIGSYS), _) => format!(
            "{name} was killed (SIGSYS) because it made a system call that its filter forbids, by a \
             bug or under a guest's control; the kernel's log may say which"
        ),
        (Some(signal), _) => format!("{name} was killed (signal {signal})"),
        (None, Some(code)) => format!("{name} ended with status {code}"),
        (None, None) => format!("{name} ended"),
    };
    let last_lines = guest_text::console(last_lines);
    failed(if last_lines.is_empty() {
        what
    } else {
        format!("{what}; its last words:\n{last_lines}")
    })
}

/// Something else made it impossible to go on.
pub(super) fn failed(description: impl Into<String>) -> VmEnd {
    VmEnd {
        kind: VmEndKind::Failed,
        description: description.into(),
        console: String::new(),
    }
}

/// It was asked to end.
pub(super) fn stopped() -> VmEnd {
    reported(&Exit {
        reason: ExitReason::Stopped,
        console: String::new(),
    })
}

fn with_console(what: &str, console: &str) -> String {
    if console.is_empty() {
        what.to_owned()
    } else {
        format!("{what}; the last lines of its console:\n{console}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use caisson_control::{Exit, ExitReason};

    use super::{exited, reported};
    use crate::VmEndKind;

    #[test]
    fn the_console_is_told_and_made_harmless() {
        let end = reported(&Exit {
            reason: ExitReason::Panic,
            console: "one\r\n\x1b[31mKernel panic - not syncing\n".into(),
        });
        assert_eq!(end.kind, VmEndKind::Panic);
        assert_eq!(
            end.description,
            "the guest's kernel panicked; the last lines of its console:\n\
             one\n [31mKernel panic - not syncing"
        );
        let end = reported(&Exit {
            reason: ExitReason::Shutdown,
            console: String::new(),
        });
        assert_eq!(end.description, "the guest shut itself down");
        let end = reported(&Exit {
            reason: ExitReason::Failed {
                message: "no\nmemory".into(),
            },
            console: String::new(),
        });
        assert_eq!(end.description, "the virtual machine failed: no memory");
    }

    #[test]
    fn a_silent_end_is_told_by_its_status() {
        for (status, words, expected) in [
            (9, "", "the VMM was killed (signal 9)"),
            (
                libc::SIGSYS,
                "",
                "the VMM was killed (SIGSYS) because it made a system call that its filter forbids, \
                 by a bug or under a guest's control; the kernel's log may say which",
            ),
            (3 << 8, "", "the VMM ended with status 3"),
            (
                1 << 8,
                "no memory",
                "the VMM ended with status 1; its last words:\nno memory",
            ),
        ] {
            let end = exited("the VMM", ExitStatus::from_raw(status), words);
            assert_eq!(end.description, expected);
            assert_eq!(end.kind, VmEndKind::Failed);
        }
    }
}
