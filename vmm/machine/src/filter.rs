//! Which system calls each kind of thread may make, once the process has locked itself in. Any other
//! ends the process.
//!
//! A thread has the filters of the thread that started it, and sets its own in addition. The first
//! thread has two in the course of its life. Until the guest runs it builds a machine out of files that
//! are open already and starts the io thread, so that its list holds what that holds. Then it sets
//! another, which leaves it what it needs to talk to the shim, to plug devices and to start vCPUs.
//!
//! All of them share one memory: who can write to it at will can make any thread do anything. So what
//! counts against an intruder is what is on no list: nothing is opened or executed, no socket is made
//! that leads anywhere, no other process is looked at or signalled, no memory becomes executable. That
//! the lists of the threads in which the guest's requests are handled are shorter narrows the ways in.
//!
//! The lists are for glibc, with which this program is built. That each call is made by somebody is
//! tested where there are guests: `tests/machine/tests/machine/calls.rs`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use caisson_jail::filter::{Action, Condition, Filter, install};

use self::ioctl::{BUILDING_REQUESTS, CONTROL_REQUESTS, IO_REQUESTS, VCPU_REQUESTS};

mod ioctl;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first thread until the guest runs: builds the machine, starts the others.
    Building,
    /// The first thread from then on: talks to the shim, changes the machine.
    Control,
    /// Runs all devices.
    Io,
    /// Runs one vCPU, whose guest's driver sets devices up and resets them.
    Vcpu,
}

/// What the threads of one name may do, for the test that nothing of it is unused.
#[derive(Debug)]
pub struct Allowance {
    /// How the threads are called, or how their names begin.
    pub thread: &'static str,
    /// The numbers of the system calls.
    pub calls: Vec<u32>,
    /// The requests of ioctl(2).
    pub requests: Vec<u32>,
}

impl Allowance {
    /// Those of all threads.
    #[must_use]
    pub fn all() -> [Self; 3] {
        [
            // Without what it may only because others inherit from it.
            ("caisson-vmm", building(changing(every()))),
            ("io", io(every())),
            ("vcpu", vcpu(every())),
        ]
        .map(|(thread, filter)| Self {
            thread,
            calls: filter.allowed().collect(),
            requests: filter.allowed_values(libc::SYS_ioctl, 1).collect(),
        })
    }
}

/// What any thread does that has memory, locks, and an end; also one that panics.
const EVERY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// Talking: with the shim, with a file server that gets or loses its queues, and with what is behind
/// the connections of the socket device.
const CONVERSATION: &[i64] = &[libc::SYS_ppoll, libc::SYS_recvmsg];

/// What becomes of devices on the thread of a vCPU: the events of their queues are made, and a reset
/// of the socket device ends its connections.
const REGISTERS: &[i64] = &[libc::SYS_eventfd2, libc::SYS_sendmsg, libc::SYS_shutdown];

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
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_timerfd_settime,
];

/// Talking to the shim, starting threads, making devices of open files, and the end.
const CHANGING: &[i64] = &[
    libc::SYS_exit_group,
    libc::SYS_lseek,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
];

/// Building a machine of open files.
const BUILDING: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_getrandom,
    libc::SYS_memfd_create,
    libc::SYS_pread64,
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

/// What calls fail with that glibc tries before others that do as well.
const NO_SUCH_CALL: u16 = libc::ENOSYS.unsigned_abs() as u16;
const NO_MEMORY: u16 = libc::ENOMEM.unsigned_abs() as u16;

/// Whether threads set filters. They do not in tests, where a panic that is wanted may print where it
/// comes from, unless asked to.
static ENFORCED: AtomicBool = AtomicBool::new(false);

/// Sets the filter of the first thread, and lets all threads that are started from now on set
/// theirs.
///
/// # Errors
/// Fails where the kernel has no seccomp.
pub(crate) fn enforce() -> io::Result<()> {
    ENFORCED.store(true, Ordering::Release);
    enter(Kind::Building)
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
    match kind {
        Kind::Vcpu => vcpu(every()),
        Kind::Io => io(every()),
        Kind::Control => changing(vcpu(every())),
        Kind::Building => building(changing(io(vcpu(every())))),
    }
}

fn every() -> Filter {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let filter = Filter::new(Action::Kill)
        .allow(EVERY)
        .allow_values(libc::SYS_madvise, 2, ADVICE)
        .allow_if(libc::SYS_mmap, &[Condition::without(2, EXECUTABLE)])
        // Something large that grows is copied instead; and the heap of all threads needs no other.
        .fail(libc::SYS_mremap, NO_MEMORY)
        .fail(libc::SYS_mprotect, NO_MEMORY)
        // A kick for a vCPU, and a signal to oneself by which a process aborts.
        .allow_values(libc::SYS_tgkill, 0, &[own.unsigned_abs()]);
    if cfg!(debug_assertions) {
        // A debug build asks of each descriptor that it closes whether it is open.
        filter.allow_values(libc::SYS_fcntl, 1, &[libc::F_GETFD.unsigned_abs()])
    } else {
        filter
    }
}

fn vcpu(filter: Filter) -> Filter {
    filter
        .allow(REGISTERS)
        .allow_values(libc::SYS_ioctl, 1, VCPU_REQUESTS)
}

fn io(filter: Filter) -> Filter {
    let local = libc::AF_UNIX.unsigned_abs();
    filter
        .allow(CONVERSATION)
        .allow(DEVICES)
        .allow_values(libc::SYS_ioctl, 1, IO_REQUESTS)
        // Two sockets that lead to each other.
        .allow_values(libc::SYS_socketpair, 0, &[local])
}

fn changing(filter: Filter) -> Filter {
    filter
        .allow(CONVERSATION)
        .allow(CHANGING)
        .allow_values(libc::SYS_ioctl, 1, CONTROL_REQUESTS)
        .allow_values(libc::SYS_fcntl, 1, DESCRIPTOR_COMMANDS)
        .allow_values(libc::SYS_clone, 0, &[THREAD])
        // Its flags are in memory, where a filter cannot look. glibc then uses clone.
        .fail(libc::SYS_clone3, NO_SUCH_CALL)
        .allow_if(libc::SYS_mprotect, &[Condition::without(2, EXECUTABLE)])
        .allow_values(libc::SYS_prctl, 0, &[libc::PR_SET_NAME.unsigned_abs()])
        .allow_values(libc::SYS_seccomp, 0, &[libc::SECCOMP_SET_MODE_FILTER])
}

fn building(filter: Filter) -> Filter {
    filter
        .allow(BUILDING)
        .allow_values(libc::SYS_ioctl, 1, BUILDING_REQUESTS)
}

#[cfg(test)]
pub(crate) use tests::forbidden;

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
