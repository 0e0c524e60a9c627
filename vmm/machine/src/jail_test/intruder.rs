//! What becomes of an attacker who executes code of his own in a VMM: the steps of a real start, and
//! then his.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use caisson_control::IDENTITY_FD;
use io_uring::types::{Fd, OpenHow};
use io_uring::{IoUring, opcode, squeue};

use super::super::leave_everything;
use crate::filter::{self, Kind, forbidden};

/// A user that is nobody here.
const ID: &str = "2103000000\n";

/// Does `act` in a process that is locked in but for the filters, and gives back what it says; `None`
/// without the privileges for that.
fn in_jail(act: impl FnOnce() -> String) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let identity = super::file(ID);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let child = fork(|| {
        // The first process of a pid namespace, as the shim starts it.
        // SAFETY: the process has one thread, whose children this is about.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
        let inner = fork(|| {
            for (from, to) in [(writer.as_raw_fd(), 2), (identity.as_raw_fd(), IDENTITY_FD)] {
                // SAFETY: dup2 takes two numbers.
                assert!(unsafe { libc::dup2(from, to) } >= 0);
            }
            // SAFETY: it was just put there, and nobody else has it.
            let identity = unsafe { File::from_raw_fd(IDENTITY_FD) };
            let said = match leave_everything(&identity) {
                Ok(()) => act(),
                Err(error) => error.to_string(),
            };
            std::io::stderr().write_all(said.as_bytes()).unwrap();
        });
        assert_eq!(wait(inner), 0);
    });
    drop(writer);
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).unwrap();
    assert_eq!(wait(child), 0, "{said}");
    Some(said)
}

/// A child that does `act` and ends.
fn fork(act: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child only makes system calls and allocates, which glibc sees to, and then ends
    // without coming back.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        // SAFETY: ends the one thread, and nothing of what the parent had is touched. To end all of
        // them is not allowed to all of them.
        unsafe { libc::syscall(libc::SYS_exit, i32::from(done.is_err())) };
    }
    assert!(pid > 0);
    pid
}

/// How it ended, as wait(2) says it.
fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child, and writes its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

#[test]
fn he_dies_of_every_call_that_leads_out_whatever_thread_he_has() {
    let kinds = [Kind::Building, Kind::Control, Kind::Io, Kind::Vcpu];
    let said = in_jail(|| {
        let mut survived = String::new();
        for kind in kinds {
            for (name, call, [a, b, c, d]) in forbidden() {
                let status = wait(fork(|| {
                    filter::enforce().unwrap();
                    filter::enter(kind).unwrap();
                    // SAFETY: the process is there for this one call: whatever it does, it does to
                    // that.
                    unsafe { libc::syscall(call, a, b, c, d) };
                }));
                if !libc::WIFSIGNALED(status) || libc::WTERMSIG(status) != libc::SIGSYS {
                    survived.push_str(&format!("{kind:?}: {name}: {status:#x}\n"));
                }
            }
        }
        survived
    });
    assert_eq!(said.unwrap_or_default(), "");
}

/// A call by a name, and what it fails with.
type Try = (&'static str, i32, fn() -> i64);

/// What he tries when no filter is in his way.
const WITHOUT_A_FILTER: &[Try] = &[
    ("open /etc/passwd", libc::ENOENT, || {
        open(c"/etc/passwd", libc::O_RDONLY)
    }),
    ("open /dev/kvm", libc::ENOENT, || {
        open(c"/dev/kvm", libc::O_RDWR)
    }),
    ("open /proc/self/mem", libc::ENOENT, || {
        open(c"/proc/self/mem", libc::O_RDWR)
    }),
    ("open ../../etc", libc::ENOENT, || {
        open(c"../../../../etc/passwd", libc::O_RDONLY)
    }),
    ("make a file", libc::EROFS, || {
        open(c"/new", libc::O_CREAT | libc::O_WRONLY)
    }),
    ("make a nameless file", libc::EROFS, || {
        open(c"/", libc::O_TMPFILE | libc::O_RDWR)
    }),
    ("make a directory", libc::EROFS, || {
        path(libc::SYS_mkdir, c"/new", 0o700)
    }),
    ("make a device", libc::EROFS, || {
        path(libc::SYS_mknod, c"/new", libc::S_IFCHR as usize)
    }),
    ("execute", libc::ENOENT, || {
        path(libc::SYS_execve, c"/bin/sh", 0)
    }),
    ("mount", libc::EPERM, || {
        call(libc::SYS_mount, [0, c"/".as_ptr().addr(), 0, 0])
    }),
    ("unmount", libc::EPERM, || {
        path(libc::SYS_umount2, c"/", libc::MNT_DETACH as usize)
    }),
    ("change the root", libc::EPERM, || {
        path(libc::SYS_chroot, c"/", 0)
    }),
    ("signal everybody", libc::ESRCH, || {
        call(libc::SYS_kill, [usize::MAX, 0, 0, 0])
    }),
    ("signal another process", libc::ESRCH, || {
        call(libc::SYS_kill, [4_000_000, 9, 0, 0])
    }),
    ("trace another process", libc::ESRCH, || {
        call(
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH as usize, 4_000_000, 0, 0],
        )
    }),
    ("become root", libc::EPERM, || {
        call(libc::SYS_setuid, [0; 4])
    }),
    ("leave a namespace", libc::EPERM, || {
        call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize, 0, 0, 0])
    }),
    ("restart the host", libc::EPERM, || {
        call(libc::SYS_reboot, [0xfee1_dead, 0x2812_1969, 0, 0])
    }),
    ("set the clock", libc::EPERM, || {
        call(
            libc::SYS_clock_settime,
            [0, [0u64; 2].as_ptr().addr(), 0, 0],
        )
    }),
    ("a raw socket", libc::EPERM, || {
        socket(libc::AF_INET, libc::SOCK_RAW)
    }),
    ("a socket for packets", libc::EPERM, || {
        socket(libc::AF_PACKET, libc::SOCK_RAW)
    }),
    ("connect to the loopback", libc::ENETUNREACH, || {
        connect_inet([127, 0, 0, 1])
    }),
    ("connect to a cloud's metadata", libc::ENETUNREACH, || {
        connect_inet([169, 254, 169, 254])
    }),
    ("connect to containerd", libc::ENOENT, || {
        connect_local(b"/run/containerd/containerd.sock")
    }),
    ("connect to a nameless place", libc::ECONNREFUSED, || {
        connect_local(b"\0caisson")
    }),
];

fn call(number: i64, [a, b, c, d]: [usize; 4]) -> i64 {
    // SAFETY: the process is there for these calls; pointers among the arguments are to texts that
    // live for good, or to what lives as long as the call.
    unsafe { libc::syscall(number, a, b, c, d) }
}

fn path(number: i64, path: &'static CStr, argument: usize) -> i64 {
    call(number, [path.as_ptr().addr(), argument, 0, 0])
}

fn open(path: &'static CStr, flags: i32) -> i64 {
    call(
        libc::SYS_open,
        [path.as_ptr().addr(), flags as usize, 0o600, 0],
    )
}

fn socket(family: i32, kind: i32) -> i64 {
    let protocol = protocol(kind) as usize;
    call(
        libc::SYS_socket,
        [family as usize, kind as usize, protocol, 0],
    )
}

/// A raw socket is one for some protocol; of others there is only one.
fn protocol(kind: i32) -> i32 {
    if kind == libc::SOCK_RAW {
        libc::IPPROTO_ICMP
    } else {
        0
    }
}

fn connect(family: i32, address: &[u8]) -> i64 {
    let socket = socket(family, libc::SOCK_STREAM);
    assert!(socket >= 0);
    call(
        libc::SYS_connect,
        [socket as usize, address.as_ptr().addr(), address.len(), 0],
    )
}

/// Port 80 at an address.
fn connect_inet([a, b, c, d]: [u8; 4]) -> i64 {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    let address = [
        family[0], family[1], 0, 80, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    connect(libc::AF_INET, &address)
}

fn connect_local(name: &[u8]) -> i64 {
    let family = (libc::AF_UNIX as u16).to_ne_bytes();
    connect(libc::AF_UNIX, &[&family[..], name].concat())
}

#[test]
fn without_a_filter_he_finds_nothing_either() {
    let said = in_jail(|| {
        let mut wrong = String::new();
        for (what, expected, act) in WITHOUT_A_FILTER {
            let result = act();
            let error = std::io::Error::last_os_error();
            if result >= 0 || error.raw_os_error() != Some(*expected) {
                wrong.push_str(&format!("{what}: {result}, {error}\n"));
            }
        }
        wrong
    });
    assert_eq!(said.unwrap_or_default(), "");
}

/// One operation of a ring, to its end.
fn ring_does(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
    // SAFETY: what it points to lives for good, or until the operation has ended, which is below.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn a_ring_gets_him_past_the_filter_and_to_nothing() {
    if let Err(error) = IoUring::new(2) {
        eprintln!("skipped: no io_uring here: {error}");
        return;
    }
    let said = in_jail(|| {
        filter::enforce().unwrap();
        filter::enter(Kind::Io).unwrap();
        let mut ring = IoUring::new(2).unwrap();
        let mut wrong = String::new();
        let mut compare = |what: &str, expected: i32, result: i32| {
            if result != -expected {
                wrong.push_str(&format!("{what}: {result}\n"));
            }
        };
        let here = Fd(libc::AT_FDCWD);
        for (path, flags, expected) in [
            (c"/etc/passwd", libc::O_RDONLY, libc::ENOENT),
            (c"/proc/1/mem", libc::O_RDWR, libc::ENOENT),
            (c"/dev/kvm", libc::O_RDWR, libc::ENOENT),
            (c"../../../../etc/passwd", libc::O_RDONLY, libc::ENOENT),
            (c"/new", libc::O_CREAT | libc::O_WRONLY, libc::EROFS),
            (c"/", libc::O_TMPFILE | libc::O_RDWR, libc::EROFS),
        ] {
            let open = opcode::OpenAt::new(here, path.as_ptr())
                .flags(flags)
                .mode(0o600);
            compare(
                &format!("open {path:?}"),
                expected,
                ring_does(&mut ring, &open.build()),
            );
            let how = OpenHow::new().flags(flags as u64);
            let how = if flags & (libc::O_CREAT | libc::O_TMPFILE) == 0 {
                how
            } else {
                how.mode(0o600)
            };
            let open = opcode::OpenAt2::new(here, path.as_ptr(), &raw const how);
            compare(
                &format!("open2 {path:?}"),
                expected,
                ring_does(&mut ring, &open.build()),
            );
        }
        let name = c"/new".as_ptr();
        let make = opcode::MkDirAt::new(here, name).build();
        compare("make a directory", libc::EROFS, ring_does(&mut ring, &make));
        let make = opcode::SymlinkAt::new(here, name, name).build();
        compare("make a link", libc::EROFS, ring_does(&mut ring, &make));
        let remove = opcode::UnlinkAt::new(here, name).build();
        compare("remove", libc::EROFS, ring_does(&mut ring, &remove));

        // Since Linux 5.19; before, a ring makes no sockets.
        let socket = |family, kind| opcode::Socket::new(family, kind, protocol(kind)).build();
        let first = ring_does(&mut ring, &socket(libc::AF_INET, libc::SOCK_STREAM));
        if first == -libc::EINVAL {
            return wrong;
        }
        let raw = ring_does(&mut ring, &socket(libc::AF_INET, libc::SOCK_RAW));
        compare("a raw socket", libc::EPERM, raw);
        let raw = ring_does(&mut ring, &socket(libc::AF_PACKET, libc::SOCK_RAW));
        compare("a socket for packets", libc::EPERM, raw);
        let inet = (libc::AF_INET as u16).to_ne_bytes();
        for host in [[127, 0, 0, 1], [169, 254, 169, 254]] {
            let [a, b, c, d] = host;
            let address = [
                inet[0], inet[1], 0, 80, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0u8,
            ];
            let to = opcode::Connect::new(Fd(first), address.as_ptr().cast(), 16).build();
            compare(
                &format!("connect to {host:?}"),
                libc::ENETUNREACH,
                ring_does(&mut ring, &to),
            );
        }
        let local = ring_does(&mut ring, &socket(libc::AF_UNIX, libc::SOCK_STREAM));
        let family = (libc::AF_UNIX as u16).to_ne_bytes();
        for (name, expected) in [
            (&b"/run/containerd/containerd.sock"[..], libc::ENOENT),
            (b"\0caisson", libc::ECONNREFUSED),
        ] {
            let address = [&family[..], name].concat();
            let length = address.len() as u32;
            let to = opcode::Connect::new(Fd(local), address.as_ptr().cast(), length).build();
            compare(
                &format!("connect to {name:?}"),
                expected,
                ring_does(&mut ring, &to),
            );
        }
        wrong
    });
    assert_eq!(said.unwrap_or_default(), "");
}
