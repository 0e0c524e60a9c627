//! The program `/init` of the guest, and the child it becomes to make container processes.
#![no_main]
#![allow(unsafe_code)]

use caisson_agent::{init, launch};

/// Entry point of the C library. Not Rust's: that would abort before `main` in an initramfs that
/// has neither `/dev/console` nor `/dev/null`, and would ignore SIGPIPE in every container.
// SAFETY: the C library calls the one function of this name, with this signature.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: libc::c_int, _values: *const *const libc::c_char) -> libc::c_int {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|role| role == launch::ROLE) {
        return launch::child::run(arguments);
    }
    if std::process::id() != 1 {
        eprintln!(
            "caisson-agent is the first program of a Caisson guest; it does nothing elsewhere"
        );
        return 2;
    }
    init::run()
}
