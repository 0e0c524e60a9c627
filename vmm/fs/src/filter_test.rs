#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use caisson_jail::{FORBIDDEN, Forbidden};

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
fn forbidden() -> impl Iterator<Item = Forbidden> {
    FORBIDDEN.iter().chain(OF_THE_VMM).copied()
}

/// What the VMM may do, and the file server may not.
const OF_THE_VMM: &[Forbidden] = &[
    ("socketpair", libc::SYS_socketpair, [1, 1, 0, 0]),
    ("clone", libc::SYS_clone, [0; 4]),
    ("clone3", libc::SYS_clone3, [0; 4]),
    ("tgkill", libc::SYS_tgkill, [0; 4]),
    ("seccomp", libc::SYS_seccomp, [0; 4]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [0; 4]),
    ("memfd_create", libc::SYS_memfd_create, [0; 4]),
    ("ioctl", libc::SYS_ioctl, [0; 4]),
];

#[test]
fn what_an_intruder_would_want_next_is_denied() {
    for (name, call, [a, b, c, d]) in forbidden() {
        let denied = filtered(|| {
            // SAFETY: the process is there for this one call: whatever it does, it does to that.
            let result = unsafe { libc::syscall(call, a, b, c, d, 0, 0) };
            result == -1 && denied::<()>(Err(std::io::Error::last_os_error()))
        });
        assert!(denied, "{name}");
    }
}

#[test]
fn no_system_call_of_his_is_on_the_list() {
    // Denied by the list, and not by what else the kernel may have against a call: it has nothing
    // against the two of which the list looks at the arguments.
    let allowed = super::system_calls();
    let listed = |call: i64| allowed.contains(&u32::try_from(call).unwrap());
    let by_arguments = [libc::SYS_mmap, libc::SYS_prctl];
    let wrong: Vec<_> = forbidden()
        .filter(|(_, call, _)| listed(*call) && !by_arguments.contains(call))
        .collect();
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
