//! The system calls that the filters allow are calls that somebody makes.

use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;

use caisson_control::{DeviceConfig, Limits, Rate};
use caisson_machine_tests::{Address, Device, Disk, Recording, Tap, TestMachine, eventually};
use caisson_vmm::Allowance;

const MIB: u64 = 1 << 20;
const PORT: u32 = 7100;
/// What is done with files.
const FILES: &str = include_str!("calls.py");
/// What nobody makes here, and why it is allowed all the same.
const UNSEEN: &[(i64, &str)] = &[
    (libc::SYS_fcntl, "a debug build, for every thread"),
    (libc::SYS_rt_sigprocmask, "a thread that aborts"),
    // Of vCPUs, a device that is activated or reset on their thread; nothing here provokes it.
    (libc::SYS_ppoll, "a file server that gets its queues"),
    (libc::SYS_read, "a device that is reset"),
    (libc::SYS_recvmsg, "a file server that gets its queues"),
    (libc::SYS_sendmsg, "a file server that gets its queues"),
    (libc::SYS_brk, "a heap that grows"),
    (
        libc::SYS_clock_gettime,
        "a clock that cannot be read in any other way",
    ),
    (libc::SYS_exit, "a thread that fails"),
    (libc::SYS_fchmod, "a mode that comes with an open file"),
    (
        libc::SYS_ftruncate,
        "a machine that comes without a file for its memory",
    ),
    (libc::SYS_getpid, "a thread that aborts"),
    (libc::SYS_getrandom, "a hash table of the file server"),
    (libc::SYS_gettid, "a thread that aborts"),
    (
        libc::SYS_memfd_create,
        "a machine that comes without a file for its memory",
    ),
    (libc::SYS_munmap, "something large that goes"),
    (libc::SYS_rt_sigaction, "a thread that aborts"),
    (libc::SYS_rt_sigreturn, "a stack that has overflowed"),
    (
        libc::SYS_sched_yield,
        "a channel between threads that is contended",
    ),
    (libc::SYS_shutdown, "a driver that resets the socket device"),
    (libc::SYS_tgkill, "a thread that aborts"),
];
/// The same of requests.
const UNSEEN_REQUESTS: &[(u32, &str)] = &[
    (
        0x4004_54d0,
        "TUNSETOFFLOAD, of a vCPU that activates an interface",
    ),
    (0x4004_54d9, "TUNSETQUEUE, likewise"),
    (
        0x8090_ae81,
        "KVM_GET_REGS, for the words about a vCPU that fails",
    ),
    (
        0x1268,
        "BLKSSZGET, of a disk that is a block device, as the next four",
    ),
    (0x1277, "BLKDISCARD"),
    (0x1278, "BLKIOMIN"),
    (0x1279, "BLKIOOPT"),
    (0x127b, "BLKPBSZGET"),
];

/// The host is one without io_uring, until this goes out of scope.
struct WithoutIoUring {
    before: String,
}

impl WithoutIoUring {
    const SETTING: &str = "/proc/sys/kernel/io_uring_disabled";

    fn begin() -> Self {
        let before = fs::read_to_string(Self::SETTING).unwrap();
        fs::write(Self::SETTING, "2").unwrap();
        Self { before }
    }
}

impl Drop for WithoutIoUring {
    fn drop(&mut self) {
        let _ = fs::write(Self::SETTING, &self.before);
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn no_system_call_is_allowed_that_nobody_makes() {
    let recording = Recording::begin();
    everything_is_used();

    let mut unused = Vec::new();
    for Allowance {
        thread,
        calls,
        requests,
    } in Allowance::all()
    {
        let made = recording.calls(thread);
        unused.extend(not_in(&calls, &made).map(|call| format!("{thread}: call {call}")));
        let made = recording.requests(thread);
        unused.extend(
            not_in(&requests, &made).map(|request| format!("{thread}: ioctl {request:#x}")),
        );
    }
    let calls = caisson_fs::system_calls();
    let made = recording.calls("caisson-fs");
    unused.extend(not_in(&calls, &made).map(|call| format!("caisson-fs: call {call}")));
    assert!(unused.is_empty(), "nobody makes\n{}", unused.join("\n"));
}

fn not_in<'a>(allowed: &'a [u32], made: &'a BTreeSet<u32>) -> impl Iterator<Item = u32> + 'a {
    let unseen = |number: &u32| {
        let call = UNSEEN.iter().any(|(call, _)| *call == i64::from(*number));
        call || UNSEEN_REQUESTS.iter().any(|(request, _)| request == number)
    };
    let unused = move |number: &u32| !made.contains(number) && !unseen(number);
    allowed.iter().copied().filter(unused)
}

/// A machine that has one of everything, and does everything that one does.
fn everything_is_used() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let (disk, slow, plain) = (Disk::new("a", 16), Disk::new("b", 16), Disk::new("c", 16));
    let mut limited = slow.device();
    if let DeviceConfig::Disk(config) = &mut limited.config {
        config.limits = Limits {
            bytes: Some(Rate {
                per_second: 8 << 20,
                burst: 1 << 20,
            }),
            operations: None,
        };
    }
    let tap = Tap::new(2, "192.168.128.1/24");
    let machine = TestMachine::builder()
        .vcpus(1)
        .max_vcpus(2)
        .hotplug_memory_mib(256)
        .virtio_console()
        .device(disk.device())
        .device(limited)
        .device(tap.device())
        .device(Device::file_server("share", directory.path()))
        .boot();

    for name in ["a", "b"] {
        use_disk(&machine, name);
    }
    machine.shell("mkdir /run/share; mount -t virtiofs share /run/share");
    let _ = machine.run(&["python3", "-c", FILES, "/run/share"]).ok();
    machine.shell("umount /run/share");
    machine.shell(
        "ip addr add 192.168.128.2/24 dev eth0; ip link set eth0 up; \
         busybox ping -c 1 192.168.128.1; echo heard > /dev/hvc0",
    );
    use_streams(&machine);

    machine.set_vcpus(2);
    machine.set_online(1, true);
    machine.set_hotplug_memory(128);
    eventually("128 MiB are plugged", || {
        machine.metrics().memory.plugged_mib == 128
    });
    machine.set_hotplug_memory(0);
    machine.set_balloon(8);
    eventually("the balloon holds 8 MiB", || {
        machine.metrics().memory.balloon_mib == 8
    });
    machine.pause();
    machine.resume();

    let without = WithoutIoUring::begin();
    let slot = machine.plug(plain.device());
    machine.rescan();
    use_disk(&machine, "c");
    drop(without);
    machine.remove(slot);
    machine.unplug(slot);
    let _ = machine.stop();
}

fn use_disk(machine: &TestMachine, name: &str) {
    let path = machine.disk_path(name);
    machine.write_pattern(&path, 51, 4 * MIB);
    machine.check_pattern(&path, 51, 4 * MIB);
    machine.shell(&format!(
        "dd if=/dev/zero of={path} bs=64k count=4 conv=fsync; \
         blkdiscard --offset 0 --length 8M {path}; blkdiscard --zeroout --length 1M {path}"
    ));
}

/// Both ways and half-closed, and what nobody takes.
fn use_streams(machine: &TestMachine) {
    machine.echo(53, 300_000);
    let _ = machine.try_connect(4711).unwrap_err();
    std::thread::scope(|scope| {
        scope.spawn(|| machine.dial(Address::Vsock(PORT), 52, &[100_000]));
        let connection = machine.accept(PORT);
        std::io::copy(&mut &connection, &mut &connection).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
    });
}
