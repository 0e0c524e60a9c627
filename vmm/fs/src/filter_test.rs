#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;

/// Runs `check` on a thread of its own under the filter.
fn filtered<T: Send>(check: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            super::install().unwrap();
            check()
        });
        thread.join().unwrap()
    })
}

fn denied<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

#[test]
fn files_can_be_read() {
    let text = filtered(|| {
        let mut text = String::new();
        File::open("/proc/self/comm")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    });
    assert!(!text.is_empty());
}

#[test]
fn sockets_processes_and_mounts_are_out_of_reach() {
    assert!(filtered(|| denied(UnixStream::pair())));
    assert!(filtered(|| denied(
        std::process::Command::new("/bin/true").status()
    )));
    assert!(filtered(|| denied(
        std::thread::Builder::new().spawn(|| ())
    )));
    assert!(filtered(|| {
        let signal = rustix::process::test_kill_process(rustix::process::getpid());
        denied(signal.map_err(Into::into))
    }));
    assert!(filtered(|| {
        let flags = rustix::mount::UnmountFlags::DETACH;
        denied(rustix::mount::unmount("/nowhere", flags).map_err(Into::into))
    }));
}

#[test]
fn no_memory_becomes_executable() {
    assert!(filtered(|| {
        let memory = File::open("/proc/self/exe").unwrap();
        executable_map(&memory)
    }));
}

/// Whether mapping `file` for execution is denied.
#[allow(unsafe_code)]
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
