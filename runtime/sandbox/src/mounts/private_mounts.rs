//! Running a test in a mount namespace of its own.

use std::thread;

use super::tree::enter_mount_namespace;

/// Runs `test` on a thread with a mount namespace of its own; threads it starts share it. Without
/// the privilege for it the test is skipped and says so.
pub(crate) fn in_private_mounts(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| match enter_mount_namespace() {
        Ok(()) => test(),
        Err(error) => eprintln!("skipped: cannot make a mount namespace ({error}), needs root"),
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
