//! The system calls that the filters allow are calls that somebody makes.

use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;

use caisson_control::{DeviceConfig, Limits, Rate};
use caisson_machine_tests::{
    Address, Device, Disk, Recording, Request, Step, Tap, TestMachine, eventually,
};
use caisson_vmm::Allowance;

const MIB: u64 = 1 << 20;
const PORT: u32 = 7100;
/// What is done with files.
const FILES: &str = include_str!("calls.py");
/// The kinds of threads, as they are called: the VMM's first, that of its devices, those of its vCPUs,
/// and all of the file server.
const FIRST: &str = "caisson-vmm";
const IO: &str = "io";
const VCPU: &str = "vcpu";
const FILE_SERVER: &str = "caisson-fs";
const OF_THE_VMM: &[&str] = &[FIRST, IO, VCPU];
const ALL: &[&str] = &[FIRST, IO, VCPU, FILE_SERVER];

/// What a kind of thread does not do here, and why it may all the same.
const UNSEEN: &[(&[&str], i64, &str)] = &[
    (OF_THE_VMM, libc::SYS_getpid, "a thread that aborts"),
    (ALL, libc::SYS_gettid, "a thread that aborts"),
    (ALL, libc::SYS_rt_sigaction, "a thread that aborts"),
    (ALL, libc::SYS_rt_sigprocmask, "a thread that aborts"),
    (OF_THE_VMM, libc::SYS_tgkill, "a thread that aborts"),
    (ALL, libc::SYS_rt_sigreturn, "a stack that has overflowed"),
    (OF_THE_VMM, libc::SYS_exit, "a thread that fails"),
    (ALL, libc::SYS_brk, "a heap that grows"),
    (ALL, libc::SYS_munmap, "something large that goes"),
    (
        ALL,
        libc::SYS_clock_gettime,
        "a clock that cannot be read in any other way",
    ),
    (
        OF_THE_VMM,
        libc::SYS_sched_yield,
        "a channel between threads that is contended",
    ),
    (OF_THE_VMM, libc::SYS_fcntl, "a debug build"),
    (
        &[VCPU],
        libc::SYS_sendmsg,
        "a socket device that is reset before the host has taken everything",
    ),
    (
        &[FIRST],
        libc::SYS_ftruncate,
        "a machine that comes without a file for its memory",
    ),
    (
        &[FIRST],
        libc::SYS_memfd_create,
        "a machine that comes without a file for its memory",
    ),
    (
        &[FILE_SERVER],
        libc::SYS_getrandom,
        "a hash table of the file server",
    ),
    (
        &[FILE_SERVER],
        libc::SYS_fchmod,
        "a mode that comes with an open file",
    ),
];
/// The same of requests.
const UNSEEN_REQUESTS: &[(&str, u32, &str)] = &[
    (
        VCPU,
        0x8090_ae81,
        "KVM_GET_REGS, for the words about a vCPU that fails",
    ),
    (
        FIRST,
        0x4068_aea3,
        "KVM_ENABLE_CAP, of a host that has performance counters",
    ),
    (
        FIRST,
        0x1268,
        "BLKSSZGET, of a disk that is a block device, as the next four",
    ),
    (IO, 0x1277, "BLKDISCARD"),
    (FIRST, 0x1278, "BLKIOMIN"),
    (FIRST, 0x1279, "BLKIOOPT"),
    (FIRST, 0x127b, "BLKPBSZGET"),
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
        unused.extend(calls_not_in(thread, &calls, &made));
        let made = recording.requests(thread);
        let unseen = |request| {
            UNSEEN_REQUESTS
                .iter()
                .any(|(of, number, _)| (*of, *number) == (thread, request))
        };
        let lacking = requests
            .into_iter()
            .filter(|request| !made.contains(request) && !unseen(*request));
        unused.extend(lacking.map(|request| format!("{thread}: ioctl {request:#x}")));
    }
    let calls = caisson_fs::system_calls();
    let made = recording.calls(FILE_SERVER);
    unused.extend(calls_not_in(FILE_SERVER, &calls, &made));
    assert!(unused.is_empty(), "nobody makes\n{}", unused.join("\n"));
}

/// What a kind of thread may do, but neither has done here nor has a reason for.
fn calls_not_in(thread: &str, allowed: &[u32], made: &BTreeSet<u32>) -> Vec<String> {
    let unseen = |number: u32| {
        let entry = |(threads, call, _): &(&[&str], i64, &str)| {
            threads.contains(&thread) && *call == i64::from(number)
        };
        UNSEEN.iter().any(entry)
    };
    let lacking = allowed
        .iter()
        .filter(|number| !made.contains(number) && !unseen(**number));
    lacking
        .map(|number| format!("{thread}: call {number}"))
        .collect()
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
    reset_sockets(&machine);
    let _ = machine.stop();
}

/// The guest resets the device by which we speak with it, with connections that have bytes left in
/// either direction.
fn reset_sockets(machine: &TestMachine) {
    let bytes = 4 * MIB;
    let stuck = machine.ask_guest(&Request::Send { seed: 54, bytes });
    let sockets = || {
        let metrics = machine.metrics();
        let mut devices = metrics.devices.into_iter();
        devices.find(|device| device.device == "vsock").unwrap()
    };
    let before = sockets();
    eventually("more is sent than a socket of the host takes", || {
        sockets().bytes_from_guest > before.bytes_from_guest + MIB / 4
    });
    let slot = before.slot;
    let steps = vec![Step::Bind { slot, bound: false }];
    drop(machine.ask_guest(&Request::Play { steps }));
    // To the end, which is before that of what was to be sent.
    let taken = std::io::copy(&mut &stuck, &mut std::io::sink());
    assert!(taken.is_ok_and(|taken| taken < bytes));
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
