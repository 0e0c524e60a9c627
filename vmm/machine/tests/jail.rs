//! The program as a process: what it has when it waits for its first request, and that a machine can
//! be built and run with that.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![allow(unsafe_code)]

#[path = "../src/boot/test_kernel.rs"]
mod test_kernel;

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use caisson_control::{
    BootConfig, Channel, DeviceConfig, DiskConfig, Event, ExitReason, FileRole, FromVmm, Limits,
    Phase, Rate, Reply, Request, ToVmm, VERSION,
};

/// A user that is nobody here.
const ID: u32 = 2_102_000_000;

/// A started `caisson-vmm`.
struct Vmm {
    child: Child,
    channel: Channel,
}

fn identity(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

impl Vmm {
    /// Starts it as the shim does; `None` without the privileges for that.
    fn start(identity: &File) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let (ours, theirs) = Channel::pair().unwrap();
        // Above the places they go to.
        let control = rustix::io::fcntl_dupfd_cloexec(&theirs, 20).unwrap();
        let identity = rustix::io::fcntl_dupfd_cloexec(identity, 20).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_caisson-vmm"));
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let place = move || {
            // The last is one that the program is not to keep.
            for (from, to) in [(&control, 3), (&identity, 4), (&identity, 9)] {
                // SAFETY: dup2 takes two numbers.
                if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: only system calls between fork and exec.
        unsafe { command.pre_exec(place) };
        let child = command.spawn().unwrap();
        Some(Self {
            child,
            channel: ours,
        })
    }

    /// Waits until it is locked in.
    fn ready(&self) {
        let (message, _) = self.channel.receive::<FromVmm>().unwrap();
        assert!(matches!(
            message,
            FromVmm::Event(Event::Phase {
                phase: Phase::VmmStarted,
                ..
            })
        ));
    }

    fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.child.id()))
    }

    fn read(&self, what: &str) -> String {
        fs::read_to_string(self.proc(what)).unwrap()
    }

    fn ask(&self, request: Request, files: &[OwnedFd]) {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.channel
            .send(&ToVmm { id: 1, request }, &files)
            .unwrap();
    }

    /// The next message that is not a phase.
    fn answer(&self) -> FromVmm {
        loop {
            match self.channel.receive::<FromVmm>() {
                Ok((FromVmm::Event(Event::Phase { .. }), _)) => {}
                Ok((message, _)) => return message,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Its end, and what it said.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        drop(self.channel);
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

/// The words behind `name` in a file of lines.
fn line<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .split_whitespace()
        .collect()
}

#[test]
fn it_has_nothing_that_it_was_not_given() {
    let Some(vmm) = Vmm::start(&identity(&format!("{ID}\n"))) else {
        return;
    };
    vmm.ready();

    // An empty directory that nothing can be put into, and no other mount.
    assert_eq!(fs::read_dir(vmm.proc("root")).unwrap().count(), 0);
    let mounts = vmm.read("mountinfo");
    let mount: Vec<_> = mounts.split_whitespace().collect();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert_eq!(mount[4], "/");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount[5].split(',').any(|has| has == option), "{mounts}");
    }
    assert!(mounts.contains("- tmpfs "), "{mounts}");
    assert!(File::create(vmm.proc("root").join("file")).is_err());
    assert_eq!(fs::read_link(vmm.proc("cwd")).unwrap(), PathBuf::from("/"));

    for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let theirs = fs::read_link(vmm.proc("ns").join(namespace)).unwrap();
        let ours = fs::read_link(PathBuf::from("/proc/self/ns").join(namespace)).unwrap();
        assert_ne!(theirs, ours, "{namespace}");
    }
    // A namespace with a loopback interface, which is down.
    let networks = vmm.read("net/dev");
    assert_eq!(networks.lines().count(), 3, "{networks}");

    let status = vmm.read("status");
    let id = ID.to_string();
    assert_eq!(line(&status, "Uid:"), [&id; 4]);
    assert_eq!(line(&status, "Gid:"), [&id; 4]);
    assert_eq!(line(&status, "Groups:"), [""; 0]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(&status, set), ["0000000000000000"], "{set}");
    }
    assert_eq!(line(&status, "NoNewPrivs:"), ["1"]);
    assert_eq!(line(&status, "Seccomp:"), ["2"]);

    let limits = vmm.read("limits");
    for (limit, most) in [
        ("Max open files", "8192"),
        ("Max processes", "512"),
        ("Max core file size", "0"),
        ("Max locked memory", "8388608"),
    ] {
        assert_eq!(line(&limits, limit)[..2], [most; 2], "{limit}");
    }

    // The standard three, control and identity, and what the control thread made itself: an event.
    let open: Vec<_> = fs::read_dir(vmm.proc("fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(open.len(), 6, "{open:?}");
    assert!(
        open.iter()
            .any(|link| link.ends_with("anon_inode:[eventfd]")),
        "{open:?}"
    );

    let (status, said) = vmm.end();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(said, "");
}

#[test]
fn it_says_why_it_cannot_be_somebody() {
    for text in ["", "root\n", "0\n"] {
        let Some(vmm) = Vmm::start(&identity(text)) else {
            return;
        };
        let (status, said) = vmm.end();
        assert_eq!(status.code(), Some(1), "{text:?}");
        assert!(said.contains("descriptor 4 holds"), "{said}");
    }
}

fn file(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file.into()
}

/// A request for a machine that executes `program`, with its files; `None` without a KVM.
fn machine(program: &[u8]) -> Option<(Request, Vec<OwnedFd>)> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    let kvm = kvm
        .inspect_err(|error| eprintln!("skipped: /dev/kvm cannot be opened: {error}"))
        .ok()?;
    let console = tempfile::tempfile().unwrap();
    let files = vec![
        kvm.into(),
        file(&test_kernel::test_kernel(program)),
        file(b"an initrd"),
        console.into(),
        file(&[0; 4096]),
    ];
    let config = BootConfig {
        version: VERSION,
        vcpus: 2,
        max_vcpus: 4,
        memory_mib: 64,
        hotplug_memory_mib: 128,
        virtio_console: true,
        cmdline: "quiet".into(),
        guest_cid: 3,
        files: vec![
            FileRole::Kvm,
            FileRole::Kernel,
            FileRole::Initrd,
            FileRole::Console,
        ],
        devices: vec![disk("disk", Limits::default())],
    };
    Some((Request::Boot(config), files))
}

fn disk(id: &str, limits: Limits) -> DeviceConfig {
    DeviceConfig::Disk(DiskConfig {
        id: id.into(),
        read_only: false,
        direct: false,
        queues: 1,
        limits,
        parts: Vec::new(),
    })
}

/// Whether the answer says that this KVM makes no machines at all.
fn refused(answer: &FromVmm) -> bool {
    match answer {
        FromVmm::Reply {
            reply: Reply::Refused { message, .. },
            ..
        } => {
            eprintln!("skipped: /dev/kvm makes no machine: {message}");
            true
        }
        _ => false,
    }
}

#[test]
fn a_machine_is_built_changed_and_ended_in_there() {
    // A loop that does nothing.
    let Some((boot, files)) = machine(&[0xeb, 0xfe]) else {
        return;
    };
    let Some(vmm) = Vmm::start(&identity(&format!("{}\n", ID + 1))) else {
        return;
    };
    vmm.ready();
    vmm.ask(boot, &files);
    let answer = vmm.answer();
    if refused(&answer) {
        return;
    }
    assert!(
        matches!(
            &answer,
            FromVmm::Reply {
                reply: Reply::Booted { .. },
                ..
            }
        ),
        "{answer:?}"
    );
    for device in [
        DeviceConfig::Memory,
        DeviceConfig::Balloon,
        DeviceConfig::Rng,
    ] {
        vmm.ask(Request::Plug(device), &[]);
        let answer = vmm.answer();
        assert!(
            matches!(
                &answer,
                FromVmm::Reply {
                    reply: Reply::Plugged { .. },
                    ..
                }
            ),
            "{answer:?}"
        );
    }
    for request in [
        Request::SetVcpus { count: 4 },
        Request::SetHotplugMemory { mib: 64 },
        Request::SetBalloon { mib: 8 },
        Request::Pause,
        Request::Resume,
    ] {
        vmm.ask(request, &[]);
        let answer = vmm.answer();
        assert!(
            matches!(
                &answer,
                FromVmm::Reply {
                    reply: Reply::Done,
                    ..
                }
            ),
            "{answer:?}"
        );
    }
    let limits = Limits {
        bytes: Some(Rate {
            per_second: 1000,
            burst: 1000,
        }),
        operations: None,
    };
    let late = Request::Plug(disk("late", limits));
    vmm.ask(late, &[file(&[0; 4096])]);
    let FromVmm::Reply {
        reply: Reply::Plugged { slot },
        ..
    } = vmm.answer()
    else {
        panic!("it is not plugged");
    };
    vmm.ask(Request::Unplug { slot }, &[]);
    assert!(matches!(
        vmm.answer(),
        FromVmm::Reply {
            reply: Reply::Done,
            ..
        }
    ));
    // The filter under which the machine was built, and the one from then on.
    let status = vmm.read("status");
    assert_eq!(line(&status, "Seccomp_filters:"), ["2"]);
    vmm.ask(Request::Metrics, &[]);
    assert!(matches!(
        vmm.answer(),
        FromVmm::Reply {
            reply: Reply::Metrics(_),
            ..
        }
    ));
    vmm.ask(Request::Stop, &[]);
    assert!(matches!(
        vmm.answer(),
        FromVmm::Reply {
            reply: Reply::Stopped,
            ..
        }
    ));
    let answer = vmm.answer();
    assert!(
        matches!(&answer, FromVmm::Event(Event::Exit(exit)) if exit.reason == ExitReason::Stopped),
        "{answer:?}"
    );
    let (status, said) = vmm.end();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(said, "");
}

#[test]
fn a_guest_that_ends_itself_is_reported_from_in_there() {
    // A byte to the port of phases, one to the serial port, and a reset by triple fault:
    // mov dx, 0x3f0; out dx, al; mov dx, 0x3f8; out dx, al; lidt [0]; ud2
    let program = [
        0x66, 0xba, 0xf0, 0x03, 0xee, 0x66, 0xba, 0xf8, 0x03, 0xee, 0x0f, 0x0b,
    ];
    let Some((boot, files)) = machine(&program) else {
        return;
    };
    let Some(vmm) = Vmm::start(&identity(&format!("{}\n", ID + 2))) else {
        return;
    };
    vmm.ready();
    vmm.ask(boot, &files);
    let answer = vmm.answer();
    if refused(&answer) {
        return;
    }
    let answer = vmm.answer();
    assert!(
        matches!(&answer, FromVmm::Event(Event::Exit(exit)) if exit.reason == ExitReason::Shutdown),
        "{answer:?}"
    );
    let (status, said) = vmm.end();
    assert!(status.success(), "{status} {:?}: {said}", status.signal());
}
