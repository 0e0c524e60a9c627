//! The system calls that are left to the program once it serves.
//!
//! They are those of a file system on descriptors, of one socket and of memory. What is missing is
//! what an intruder would want next: other processes and sockets, mounts, namespaces, programs to
//! execute, and the kernel's less trodden paths.

use std::io;

use caisson_jail::filter::{Action, Condition, Filter};

/// What a forbidden call fails with.
const EPERM: u16 = libc::EPERM.unsigned_abs() as u16;
const EXECUTABLE: u32 = libc::PROT_EXEC.unsigned_abs();

/// What FUSE requests are made of.
const FILES: &[i64] = &[
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_removexattr,
    libc::SYS_renameat2,
    libc::SYS_setxattr,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
];

/// Acting with the ids of the process in the guest that asks.
const CREDENTIALS: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
];

/// The connection to the VMM and the queues.
const CONNECTION: &[i64] = &[libc::SYS_ppoll, libc::SYS_recvmsg, libc::SYS_sendmsg];

/// What any program does that has memory and an end. `mmap` also maps guest memory.
const RUNTIME: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_exit_group,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_munmap,
    // A fault kills after its handler has put the default back. Without that it would repeat for ever.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// Sets the filter for this thread, which is the only one. A call that is not on the lists fails
/// with EPERM: should a rare request need one that was forgotten, that request fails, and not
/// everything else with it.
///
/// # Errors
/// Fails where the kernel has no seccomp.
pub(crate) fn install() -> io::Result<()> {
    caisson_jail::filter::install(&filter())
}

/// The numbers of the calls on the lists, for the test that none of them is unused.
#[must_use]
pub fn system_calls() -> Vec<u32> {
    filter().allowed().collect()
}

fn filter() -> Filter {
    [FILES, CREDENTIALS, CONNECTION, RUNTIME]
        .into_iter()
        .fold(Filter::new(Action::Fail(EPERM)), Filter::allow)
        // No memory that can be executed.
        .allow_if(libc::SYS_mmap, &[Condition::without(2, EXECUTABLE)])
        // libcap-ng looks at the bounding and the ambient set. It does not change them.
        .allow_if(
            libc::SYS_prctl,
            &[Condition::equals(0, libc::PR_CAPBSET_READ.unsigned_abs())],
        )
        .allow_if(
            libc::SYS_prctl,
            &[
                Condition::equals(0, libc::PR_CAP_AMBIENT.unsigned_abs()),
                Condition::equals(1, libc::PR_CAP_AMBIENT_IS_SET.unsigned_abs()),
            ],
        )
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
