//! What neither the VMM nor the file server may do, for the tests of both.

/// A system call that an intruder would make: what it would give him, its number, its arguments.
pub type Forbidden = (&'static str, i64, [usize; 4]);

const WRITABLE_CODE: usize = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as usize;
const PRIVATE_MEMORY: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
/// Threads are otherwise what some of them may start.
const THREAD_IN_USER_NAMESPACE: usize = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_NEWUSER) as usize;

/// What an intruder would want next, in whichever process he is.
pub const FORBIDDEN: &[Forbidden] = &[
    ("open", libc::SYS_open, [0; 4]),
    ("readlink", libc::SYS_readlink, [0; 4]),
    ("execve", libc::SYS_execve, [0; 4]),
    ("execveat", libc::SYS_execveat, [0; 4]),
    ("fork", libc::SYS_fork, [0; 4]),
    ("vfork", libc::SYS_vfork, [0; 4]),
    (
        "a process by clone",
        libc::SYS_clone,
        [libc::SIGCHLD as usize, 0, 0, 0],
    ),
    (
        "a thread in a user namespace",
        libc::SYS_clone,
        [THREAD_IN_USER_NAMESPACE, 0, 0, 0],
    ),
    ("wait4", libc::SYS_wait4, [0; 4]),
    ("socket", libc::SYS_socket, [1, 1, 0, 0]),
    (
        "two sockets of the network",
        libc::SYS_socketpair,
        [libc::AF_INET as usize, 1, 0, 0],
    ),
    ("connect", libc::SYS_connect, [0; 4]),
    ("bind", libc::SYS_bind, [0; 4]),
    ("listen", libc::SYS_listen, [0; 4]),
    ("accept4", libc::SYS_accept4, [0; 4]),
    ("getpeername", libc::SYS_getpeername, [0; 4]),
    ("sendto", libc::SYS_sendto, [0; 4]),
    ("recvfrom", libc::SYS_recvfrom, [0; 4]),
    ("kill", libc::SYS_kill, [1, 0, 0, 0]),
    ("tkill", libc::SYS_tkill, [1, 0, 0, 0]),
    ("tgkill of another process", libc::SYS_tgkill, [1, 1, 0, 0]),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [1, 0, 0, 0]),
    ("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 4]),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [0; 4]),
    ("ptrace", libc::SYS_ptrace, [0; 4]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0]),
    (
        "process_vm_writev",
        libc::SYS_process_vm_writev,
        [1, 0, 0, 0],
    ),
    ("kcmp", libc::SYS_kcmp, [0; 4]),
    (
        "unshare",
        libc::SYS_unshare,
        [libc::CLONE_NEWUSER as usize, 0, 0, 0],
    ),
    ("setns", libc::SYS_setns, [0; 4]),
    ("mount", libc::SYS_mount, [0; 4]),
    ("umount2", libc::SYS_umount2, [0; 4]),
    ("fsopen", libc::SYS_fsopen, [0; 4]),
    ("fsmount", libc::SYS_fsmount, [0; 4]),
    ("open_tree", libc::SYS_open_tree, [0; 4]),
    ("move_mount", libc::SYS_move_mount, [0; 4]),
    ("mount_setattr", libc::SYS_mount_setattr, [0; 4]),
    ("pivot_root", libc::SYS_pivot_root, [0; 4]),
    ("chroot", libc::SYS_chroot, [0; 4]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 4]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [0; 4]),
    ("quotactl", libc::SYS_quotactl, [0; 4]),
    ("swapon", libc::SYS_swapon, [0; 4]),
    ("setuid", libc::SYS_setuid, [0; 4]),
    ("setgid", libc::SYS_setgid, [0; 4]),
    ("prlimit64", libc::SYS_prlimit64, [0; 4]),
    ("personality", libc::SYS_personality, [0; 4]),
    ("bpf", libc::SYS_bpf, [0; 4]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 4]),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 4]),
    ("memfd_secret", libc::SYS_memfd_secret, [0; 4]),
    ("add_key", libc::SYS_add_key, [0; 4]),
    ("keyctl", libc::SYS_keyctl, [0; 4]),
    ("request_key", libc::SYS_request_key, [0; 4]),
    ("init_module", libc::SYS_init_module, [0; 4]),
    ("finit_module", libc::SYS_finit_module, [0; 4]),
    ("kexec_load", libc::SYS_kexec_load, [0; 4]),
    ("reboot", libc::SYS_reboot, [0; 4]),
    ("iopl", libc::SYS_iopl, [3, 0, 0, 0]),
    ("ioperm", libc::SYS_ioperm, [0; 4]),
    ("modify_ldt", libc::SYS_modify_ldt, [0; 4]),
    ("clock_settime", libc::SYS_clock_settime, [0; 4]),
    ("sethostname", libc::SYS_sethostname, [0; 4]),
    ("syslog", libc::SYS_syslog, [0; 4]),
    ("acct", libc::SYS_acct, [0; 4]),
    (
        "landlock_create_ruleset",
        libc::SYS_landlock_create_ruleset,
        [0; 4],
    ),
    ("inotify_init1", libc::SYS_inotify_init1, [0; 4]),
    ("fanotify_init", libc::SYS_fanotify_init, [0; 4]),
    (
        "memory with code",
        libc::SYS_mmap,
        [0, 4096, WRITABLE_CODE, PRIVATE_MEMORY],
    ),
    (
        "code in memory",
        libc::SYS_mprotect,
        [0, 4096, WRITABLE_CODE, 0],
    ),
    (
        "pkey_mprotect",
        libc::SYS_pkey_mprotect,
        [0, 4096, WRITABLE_CODE, 0],
    ),
    (
        "dumping again",
        libc::SYS_prctl,
        [libc::PR_SET_DUMPABLE as usize, 1, 0, 0],
    ),
    (
        "TUNSETIFF",
        libc::SYS_ioctl,
        [3, libc::TUNSETIFF as usize, 0, 0],
    ),
    ("KVM_GET_MSRS", libc::SYS_ioctl, [3, 0xc008_ae88, 0, 0]),
];
