#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether `check` holds in a process of its own under the filter.
fn filtered(check: impl FnOnce() -> bool) -> bool {
    status(check) == 0
}

/// The wait status of a process that is under the filter and ends with whether `check` holds.
fn status(check: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child only makes system calls and allocates, which glibc sees to, and then ends
    // without coming back.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // Without the privilege to do without.
        rustix::thread::set_no_new_privs(true).unwrap();
        super::install().unwrap();
        let held = check();
        // SAFETY: ends the process, and nothing of what the parent had is touched.
        unsafe { libc::_exit(if held { 0 } else { 1 }) };
    }
    assert!(pid > 0);
    let begun = Instant::now();
    let mut status = 0;
    // SAFETY: waits for the child made above, and writes its status.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == 0 {
        if begun.elapsed() > PATIENCE {
            // SAFETY: the child has not been waited for, so that the number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    status
}

#[test]
fn a_process_that_aborts_or_faults_ends() {
    let aborts = status(|| std::process::abort());
    let faults = status(|| {
        // SAFETY: nothing can be read there, which is what is wanted: the process is to end by it.
        unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() == 0 }
    });
    for status in [aborts, faults] {
        assert!(libc::WIFSIGNALED(status), "{status:#x}");
        assert_ne!(libc::WTERMSIG(status), libc::SIGKILL, "it went on for ever");
    }
}

fn denied<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

#[test]
fn files_can_be_read() {
    assert!(filtered(|| {
        let mut text = String::new();
        let mut file = File::open("/proc/self/comm").unwrap();
        file.read_to_string(&mut text).is_ok() && !text.is_empty()
    }));
}

/// What an intruder would want next.
const FORBIDDEN: &[(&str, i64)] = &[
    ("socket", libc::SYS_socket),
    ("socketpair", libc::SYS_socketpair),
    ("connect", libc::SYS_connect),
    ("bind", libc::SYS_bind),
    ("listen", libc::SYS_listen),
    ("accept4", libc::SYS_accept4),
    ("getpeername", libc::SYS_getpeername),
    ("sendto", libc::SYS_sendto),
    ("recvfrom", libc::SYS_recvfrom),
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("fork", libc::SYS_fork),
    ("vfork", libc::SYS_vfork),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("wait4", libc::SYS_wait4),
    ("kill", libc::SYS_kill),
    ("tkill", libc::SYS_tkill),
    ("tgkill", libc::SYS_tgkill),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("kcmp", libc::SYS_kcmp),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("fsopen", libc::SYS_fsopen),
    ("fsmount", libc::SYS_fsmount),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("quotactl", libc::SYS_quotactl),
    ("swapon", libc::SYS_swapon),
    ("setuid", libc::SYS_setuid),
    ("setgid", libc::SYS_setgid),
    ("prlimit64", libc::SYS_prlimit64),
    ("personality", libc::SYS_personality),
    ("seccomp", libc::SYS_seccomp),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("memfd_create", libc::SYS_memfd_create),
    ("memfd_secret", libc::SYS_memfd_secret),
    ("add_key", libc::SYS_add_key),
    ("keyctl", libc::SYS_keyctl),
    ("request_key", libc::SYS_request_key),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("reboot", libc::SYS_reboot),
    ("iopl", libc::SYS_iopl),
    ("ioperm", libc::SYS_ioperm),
    ("modify_ldt", libc::SYS_modify_ldt),
    ("ioctl", libc::SYS_ioctl),
    ("clock_settime", libc::SYS_clock_settime),
    ("sethostname", libc::SYS_sethostname),
    ("syslog", libc::SYS_syslog),
    ("acct", libc::SYS_acct),
    ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("pkey_mprotect", libc::SYS_pkey_mprotect),
];

#[test]
fn what_an_intruder_would_want_next_is_denied() {
    for (name, call) in FORBIDDEN {
        let denied = filtered(|| {
            // SAFETY: were it made after all, it would be with arguments that mean nothing.
            let result = unsafe { libc::syscall(*call, -1, 0, 0, 0, 0, 0) };
            result == -1 && denied::<()>(Err(std::io::Error::last_os_error()))
        });
        assert!(denied, "{name}");
    }
}

#[test]
fn no_system_call_of_his_is_on_the_list() {
    // Denied by the list, and not by what else the kernel may have against a call.
    let allowed = super::system_calls();
    let listed = |call: i64| allowed.contains(&u32::try_from(call).unwrap());
    let wrong: Vec<_> = FORBIDDEN.iter().filter(|(_, call)| listed(*call)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn no_memory_becomes_executable() {
    assert!(filtered(|| {
        let memory = File::open("/proc/self/exe").unwrap();
        executable_map(&memory)
    }));
}

/// Whether mapping `file` for execution is denied.
fn executable_map(file: &File) -> bool {
    use std::os::fd::AsRawFd;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping at an address chosen by the kernel touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    address == libc::MAP_FAILED && denied::<()>(Err(std::io::Error::last_os_error()))
}

#[test]
fn the_list_is_as_short_as_the_documentation_says() {
    assert_eq!(super::system_calls().len(), 62);
}
