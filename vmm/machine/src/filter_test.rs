#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use caisson_jail::filter::install;
use caisson_jail::{FORBIDDEN, Forbidden};

use super::{Kind, THREAD, filter};

const KINDS: [Kind; 4] = [Kind::Building, Kind::Control, Kind::Io, Kind::Vcpu];

/// Does `act` in a process of its own, which has the filter of a kind of thread; says how that
/// ended, as wait(2) does, and what it wrote to its standard error.
fn filtered(kind: Kind, act: impl FnOnce()) -> (i32, String) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // SAFETY: the child only makes system calls and allocates, which glibc sees to, and then ends
    // without coming back.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: dup2 takes two numbers.
        unsafe { libc::dup2(writer.as_raw_fd(), 2) };
        rustix::thread::set_no_new_privs(true).unwrap();
        // As every thread has them, that of the first and its own.
        install(&filter(Kind::Building)).unwrap();
        install(&filter(kind)).unwrap();
        act();
        // SAFETY: ends the one thread, and nothing of what the parent had is touched. To end all of
        // them is not allowed to all of them.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    assert!(pid > 0);
    drop(writer);
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).unwrap();
    let mut status = 0;
    // SAFETY: waits for the child made above, and writes its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    (status, said)
}

/// The signal by which a system call ends a thread of this kind, if it does.
fn signal(kind: Kind, call: i64, arguments: [usize; 4]) -> Option<i32> {
    let [a, b, c, d] = arguments;
    let (status, _) = filtered(kind, || {
        // SAFETY: the process is there for this one call: whatever it does, it does to that.
        unsafe { libc::syscall(call, a, b, c, d) };
    });
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// What an intruder would want next.
pub(crate) fn forbidden() -> impl Iterator<Item = Forbidden> {
    FORBIDDEN.iter().chain(OF_FILES).copied()
}

/// What the file server may do, and the VMM may not.
const OF_FILES: &[Forbidden] = &[
    ("openat", libc::SYS_openat, [0; 4]),
    ("openat2", libc::SYS_openat2, [0; 4]),
    ("getdents64", libc::SYS_getdents64, [0; 4]),
    ("unlinkat", libc::SYS_unlinkat, [0; 4]),
    ("mknodat", libc::SYS_mknodat, [0; 4]),
    ("chdir", libc::SYS_chdir, [0; 4]),
    ("setgroups", libc::SYS_setgroups, [0; 4]),
    ("capset", libc::SYS_capset, [0; 4]),
    ("flock", libc::SYS_flock, [4, libc::LOCK_UN as usize, 0, 0]),
];

#[test]
fn what_an_intruder_would_want_next_ends_the_process() {
    for kind in KINDS {
        for (name, call, arguments) in forbidden() {
            let ended = signal(kind, call, arguments);
            assert_eq!(ended, Some(libc::SIGSYS), "{kind:?}: {name}");
        }
    }
}

#[test]
fn the_threads_where_the_guests_requests_are_handled_have_less() {
    let thread = [THREAD as usize, 0, 0, 0];
    let local = [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0];
    for (kind, call, arguments) in [
        (Kind::Io, libc::SYS_clone, thread),
        (Kind::Vcpu, libc::SYS_clone, thread),
        (Kind::Vcpu, libc::SYS_socketpair, local),
        (Kind::Control, libc::SYS_memfd_create, [0; 4]),
        (Kind::Control, libc::SYS_epoll_create1, [0; 4]),
        (Kind::Control, libc::SYS_io_uring_setup, [0; 4]),
        (Kind::Control, libc::SYS_socketpair, local),
        (Kind::Io, libc::SYS_memfd_create, [0; 4]),
        (Kind::Vcpu, libc::SYS_memfd_create, [0; 4]),
        (Kind::Vcpu, libc::SYS_epoll_ctl, [0; 4]),
        (Kind::Vcpu, libc::SYS_recvmsg, [0; 4]),
        (Kind::Vcpu, libc::SYS_ppoll, [0; 4]),
        // KVM_RUN and KVM_CREATE_VM.
        (Kind::Control, libc::SYS_ioctl, [3, 0xae01, 0, 0]),
        (Kind::Io, libc::SYS_ioctl, [3, 0xae80, 0, 0]),
        (Kind::Vcpu, libc::SYS_ioctl, [3, 0xae01, 0, 0]),
        (Kind::Io, libc::SYS_ioctl, [3, 0xae01, 0, 0]),
    ] {
        let ended = signal(kind, call, arguments);
        assert_eq!(ended, Some(libc::SIGSYS), "{kind:?}: {call}");
    }
}

#[test]
fn what_every_thread_needs_is_left_to_it() {
    let memory = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let data = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    for kind in KINDS {
        for (call, arguments) in [
            (libc::SYS_getpid, [0; 4]),
            (libc::SYS_mmap, [0, 4096, data, memory]),
            (libc::SYS_sched_yield, [0; 4]),
            (libc::SYS_futex, [0, 1000, 0, 0]),
        ] {
            assert_eq!(signal(kind, call, arguments), None, "{kind:?}: {call}");
        }
    }
    // KVM_RUN, of a descriptor that is none.
    let run = [usize::MAX, 0xae80, 0, 0];
    assert_eq!(signal(Kind::Vcpu, libc::SYS_ioctl, run), None);
    // The ring of a disk is made by its first request, on the io thread.
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register] {
        let nothing = [usize::MAX, 0, 0, 0];
        assert_eq!(signal(Kind::Io, call, nothing), None);
        assert_eq!(signal(Kind::Vcpu, call, nothing), Some(libc::SIGSYS));
    }
    // A new thread finds that there is no clone3, and glibc takes the other.
    for kind in [Kind::Building, Kind::Control] {
        assert_eq!(signal(kind, libc::SYS_clone3, [0; 4]), None);
    }
}

#[test]
fn something_large_grows_without_mremap() {
    for kind in KINDS {
        let (status, said) = filtered(kind, || {
            let mut large = vec![7u8; 1 << 20];
            large.reserve_exact(8 << 20);
            assert!(large.iter().all(|byte| *byte == 7));
        });
        assert_eq!(status, 0, "{kind:?}: {said}");
    }
}

#[test]
fn the_list_of_a_thread_holds_those_of_the_threads_it_starts() {
    let calls = |kind| filter(kind).allowed().collect::<BTreeSet<_>>();
    let starts = [
        (Kind::Building, Kind::Control),
        (Kind::Building, Kind::Io),
        (Kind::Building, Kind::Vcpu),
        (Kind::Control, Kind::Vcpu),
    ];
    for (first, second) in starts {
        let lacking: Vec<_> = calls(second).difference(&calls(first)).copied().collect();
        assert!(lacking.is_empty(), "{first:?}, {second:?}: {lacking:?}");
    }
}

#[test]
fn a_panic_is_heard_and_an_abort_ends_the_process() {
    for kind in KINDS {
        let (status, said) = filtered(kind, || {
            std::panic::set_hook(Box::new(|info| {
                let _ = writeln!(std::io::stderr(), "{info}");
            }));
            let _ = std::panic::catch_unwind(|| panic!("the reason"));
        });
        assert_eq!(status, 0, "{kind:?}: {said}");
        assert!(said.contains("the reason"), "{kind:?}: {said}");

        let (status, _) = filtered(kind, || std::process::abort());
        assert!(libc::WIFSIGNALED(status));
        assert_eq!(libc::WTERMSIG(status), libc::SIGABRT, "{kind:?}");
    }
}

#[test]
fn the_lists_are_as_short_as_the_documentation_says() {
    let lengths = KINDS.map(|kind| filter(kind).allowed().count());
    // A debug build may ask for the flags of a descriptor everywhere.
    let more = usize::from(cfg!(debug_assertions));
    assert_eq!(lengths, [53, 36, 35 + more, 22 + more]);
    let requests = KINDS.map(|kind| {
        filter(kind)
            .allowed_values(libc::SYS_ioctl, 1)
            .collect::<BTreeSet<_>>()
    });
    assert_eq!(requests.map(|requests| requests.len()), [37, 24, 5, 6]);
}
