//! Which system calls each kind of thread may make, once the process has locked itself in. Any other
//! ends the process.
//!
//! A thread has the filter of the thread that started it, and sets its own in addition. Threads are
//! started by the control thread only, so its list holds what the other two hold; besides, it is
//! what is needed to build a machine out of files that are open already. All of them share one
//! memory: who can write to it at will can make any thread do anything. So what counts against an
//! intruder is what is on no list: nothing is opened or executed, no socket is made that leads
//! anywhere, no other process is looked at or signalled, no memory becomes executable. That the
//! lists of the threads in which the guest's requests are handled are shorter narrows the ways in.
//!
//! The lists are for glibc, with which this program is built.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use caisson_jail::filter::{Action, Condition, Filter, install};

use self::ioctl::{CONTROL_REQUESTS, IO_REQUESTS, VCPU_REQUESTS};

mod ioctl;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first thread: talks to the shim, builds the machine, starts the others.
    Control,
    /// Runs all devices.
    Io,
    /// Runs one vCPU, and activates devices when the guest's driver says so.
    Vcpu,
}

/// What any thread does that has memory, locks, and an end; also one that panics.
const EVERY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    // A wait with a limit goes on by it after the process was stopped or frozen.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// Talking to a file server when it gets or loses its queues, and to the control thread.
const CONVERSATION: &[i64] = &[
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
];

/// Devices at their start: the events of their queues.
const ACTIVATION: &[i64] = &[libc::SYS_eventfd2];

/// Devices at work. A disk makes its ring when the first request comes; what is done through a ring
/// passes by every filter, and where that leads is in docs/security.md.
const DEVICES: &[i64] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_getrandom,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_readv,
    libc::SYS_recvmsg,
    libc::SYS_timerfd_settime,
    libc::SYS_writev,
];

/// Building a machine of open files, and starting threads.
const BUILDING: &[i64] = &[
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_pread64,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
];

/// No memory that can be executed.
const EXECUTABLE: u32 = libc::PROT_EXEC.unsigned_abs();

/// Giving pages back, and what is asked for when memory is mapped.
const ADVICE: &[u32] = &[
    libc::MADV_DONTNEED.unsigned_abs(),
    libc::MADV_FREE.unsigned_abs(),
    libc::MADV_REMOVE.unsigned_abs(),
    libc::MADV_DONTFORK.unsigned_abs(),
    libc::MADV_HUGEPAGE.unsigned_abs(),
    libc::MADV_NOHUGEPAGE.unsigned_abs(),
    libc::MADV_DONTDUMP.unsigned_abs(),
    // Newer glibc guards the stacks of threads by these (MADV_GUARD_INSTALL, MADV_GUARD_REMOVE).
    102,
    103,
];

/// What is asked of descriptors.
const DESCRIPTOR_COMMANDS: &[u32] = &[
    libc::F_DUPFD_CLOEXEC.unsigned_abs(),
    libc::F_GETFL.unsigned_abs(),
    libc::F_SETFL.unsigned_abs(),
    libc::F_ADD_SEALS.unsigned_abs(),
];

/// A thread of this process that shares everything with it, as glibc starts it.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID)
    .unsigned_abs();

/// `ENOSYS`.
const NO_SUCH_CALL: u16 = libc::ENOSYS.unsigned_abs() as u16;

/// Whether threads set filters. They do not in tests, where a panic that is wanted may print where it
/// comes from, unless asked to.
static ENFORCED: AtomicBool = AtomicBool::new(false);

/// Sets the filter of the control thread, and lets all threads that are started from now on set
/// theirs.
///
/// # Errors
/// Fails where the kernel has no seccomp.
pub(crate) fn enforce() -> io::Result<()> {
    ENFORCED.store(true, Ordering::Release);
    enter(Kind::Control)
}

/// Sets the filter for the calling thread, which is to be of this kind from now on.
///
/// # Errors
/// As [`enforce`].
pub(crate) fn enter(kind: Kind) -> io::Result<()> {
    if is_enforced() {
        install(&filter(kind))?;
    }
    Ok(())
}

fn is_enforced() -> bool {
    // With this variable the tests of the devices are tests of the lists as well.
    let asked = || cfg!(test) && std::env::var_os("CAISSON_FILTERS").is_some();
    ENFORCED.load(Ordering::Acquire) || asked()
}

fn filter(kind: Kind) -> Filter {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let filter = Filter::new(Action::Kill)
        .allow(EVERY)
        .allow(CONVERSATION)
        .allow_values(libc::SYS_madvise, 2, ADVICE)
        .allow_if(libc::SYS_mmap, &[Condition::without(2, EXECUTABLE)])
        .allow_if(libc::SYS_mprotect, &[Condition::without(2, EXECUTABLE)])
        // A kick for a vCPU, and a signal to oneself by which a process aborts.
        .allow_values(libc::SYS_tgkill, 0, &[own.unsigned_abs()]);
    let filter = if cfg!(debug_assertions) {
        // A debug build asks of each descriptor that it closes whether it is open.
        filter.allow_values(libc::SYS_fcntl, 1, &[libc::F_GETFD.unsigned_abs()])
    } else {
        filter
    };
    match kind {
        Kind::Vcpu => filter
            .allow(ACTIVATION)
            .allow_values(libc::SYS_ioctl, 1, VCPU_REQUESTS),
        Kind::Io => {
            socket_pairs(filter.allow(DEVICES)).allow_values(libc::SYS_ioctl, 1, IO_REQUESTS)
        }
        Kind::Control => {
            let all = filter.allow(ACTIVATION).allow(DEVICES).allow(BUILDING);
            socket_pairs(all)
                .allow_values(libc::SYS_ioctl, 1, VCPU_REQUESTS)
                .allow_values(libc::SYS_ioctl, 1, IO_REQUESTS)
                .allow_values(libc::SYS_ioctl, 1, CONTROL_REQUESTS)
                .allow_values(libc::SYS_fcntl, 1, DESCRIPTOR_COMMANDS)
                .allow_values(libc::SYS_clone, 0, &[THREAD])
                // Its flags are in memory, where a filter cannot look. glibc then uses clone.
                .fail(libc::SYS_clone3, NO_SUCH_CALL)
                .allow_values(libc::SYS_prctl, 0, &[libc::PR_SET_NAME.unsigned_abs()])
                .allow_values(libc::SYS_seccomp, 0, &[libc::SECCOMP_SET_MODE_FILTER])
        }
    }
}

/// Two sockets that lead to each other.
fn socket_pairs(filter: Filter) -> Filter {
    let local = libc::AF_UNIX.unsigned_abs();
    filter.allow_values(libc::SYS_socketpair, 0, &[local])
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
