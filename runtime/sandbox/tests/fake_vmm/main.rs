//! Plays `caisson-vmm` with a guest in it, `caisson-fs` and `caisson-pod`, for the tests of the sandbox.
//!
//! What it is to do wrong stands on the guest's command line as `fake=<fault>`; as a file server,
//! in its own name.

// All of this is test code: what must not happen may panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod agent;
mod liar;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::exit;

use caisson_control::{
    BootConfig, CONTROL_FD, Channel, DeviceConfig, Event, Exit, ExitReason, FileRole, FromVmm,
    IDENTITY_FD, Metrics, Phase, RefusalKind, Reply, Request, ToVmm,
};
use caisson_protocol::{
    AGENT_PORT, DIAL_HEADER, DIAL_PORT, DialHeader, HELLO_PORT, Hello, STREAM_PORT, VERSION,
};

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    assert_eq!(std::env::args().count(), 1, "no arguments are passed");
    assert_eq!(std::env::vars().count(), 0, "no environment is passed");
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("fake-vmm") => vmm(),
        Some("fake-pod") => loop {
            std::thread::park();
        },
        Some(server) => file_server(server),
        None => exit(9),
    }
}

/// Takes the inherited descriptor `number`.
#[allow(unsafe_code)]
fn inherited(number: i32) -> OwnedFd {
    // SAFETY: whoever starts us passes it, and each number is taken once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// The next system call ends the process.
#[allow(unsafe_code)]
fn forbid_everything() {
    let mut kill = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_KILL_PROCESS,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut kill,
    };
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the program has the one instruction that it says.
    unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
}

fn file_server(name: &str) {
    let mut socket = UnixStream::from(inherited(3));
    let shared = inherited(4);
    // What is served must be there and must not be writable at the top.
    let status = rustix::fs::fstatvfs(&shared).unwrap();
    assert!(
        status
            .f_flag
            .contains(rustix::fs::StatVfsMountFlags::RDONLY)
    );
    if name == "fake-fs-dies" {
        eprintln!("fake file server has had enough");
        exit(7);
    }
    // The other end is with the VMM.
    let _ = socket.read(&mut [0]);
}

struct Vmm {
    channel: Channel,
    boot: BootConfig,
    /// Kept open as a real VMM would.
    _identity: File,
    /// Kept open as a real VMM would: those of the boot.
    _files: Vec<OwnedFd>,
}

fn vmm() {
    let channel = Channel::from(inherited(CONTROL_FD));
    let mut identity = String::new();
    let mut file = File::from(inherited(IDENTITY_FD));
    file.read_to_string(&mut identity).unwrap();
    assert!(identity.trim_end().parse::<u32>().unwrap() >= 1000);
    assert!(file.write_all(b"1").is_err(), "it can only be read");
    let (message, files) = channel.receive::<ToVmm>().unwrap();
    let Request::Boot(boot) = message.request else {
        panic!("the first request is Boot");
    };
    let of_devices: usize = boot.devices.iter().map(DeviceConfig::file_count).sum();
    assert_eq!(boot.files.len() + of_devices, files.len());
    assert_eq!(
        boot.files.get(..3),
        Some(&[FileRole::Kvm, FileRole::Kernel, FileRole::Initrd][..])
    );
    assert!(matches!(boot.devices[0], DeviceConfig::FileServer(_)));
    for interface in &boot.devices[1..] {
        assert!(matches!(interface, DeviceConfig::Net(_)));
    }
    let vmm = Vmm {
        channel,
        boot,
        _identity: file,
        _files: files,
    };
    vmm.boot(message.id);
    vmm.serve();
}

/// Appends a line to the file that the test reads, if it wants to know.
fn note(notes: Option<&Path>, line: &str) {
    let Some(notes) = notes else { return };
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(notes)
        .unwrap();
    writeln!(file, "{line}").unwrap();
}

/// On port 80 somebody listens, who says what was dialled and repeats what he hears.
fn answer_dial(socket: OwnedFd) {
    let mut socket = UnixStream::from(socket);
    socket.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        let mut header = [0; DIAL_HEADER];
        socket.read_exact(&mut header).unwrap();
        let header = DialHeader::from_bytes(&header).unwrap();
        if header.port != 80 {
            return;
        }
        writeln!(socket, "+IPv6: {}", header.ipv6).unwrap();
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).unwrap();
        socket.write_all(&heard).unwrap();
    });
}

impl Vmm {
    fn has_fault(&self, fault: &str) -> bool {
        self.setting("fake") == Some(fault)
    }

    /// How the agent lies, if it does.
    fn lie(&self) -> Option<&str> {
        self.setting("fake")?.strip_prefix("agent-")
    }

    /// What stands on the command line as `key=…`.
    fn setting(&self, key: &str) -> Option<&str> {
        let mut words = self.boot.cmdline.split(' ');
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn send(&self, message: &FromVmm) {
        self.channel.send(message, &[]).unwrap();
    }

    fn reply(&self, id: u64, reply: Reply) {
        self.send(&FromVmm::Reply { id, reply });
    }

    fn phase(&self, phase: Phase, at_ns: u64) {
        self.send(&FromVmm::Event(Event::Phase { phase, at_ns }));
    }

    fn end(&self, reason: ExitReason, console: &str) -> ! {
        self.send(&FromVmm::Event(Event::Exit(Exit {
            reason,
            console: console.into(),
        })));
        exit(0)
    }

    fn boot(&self, id: u64) {
        if self.has_fault("no-elf") {
            self.reply(
                id,
                Reply::Refused {
                    kind: RefusalKind::Kernel,
                    message: "not an ELF file".into(),
                },
            );
            return;
        }
        self.phase(Phase::VmmStarted, u64::MAX - 3);
        self.phase(Phase::VcpuEntered, u64::MAX - 2);
        if self.has_fault("dies-before-boot") {
            eprintln!("fake VMM: no memory\x1b[2J");
            exit(3);
        }
        let slots = (4..).take(self.boot.devices.len()).collect();
        self.reply(id, Reply::Booted { slots });
        if self.has_fault("panics") {
            self.end(
                ExitReason::Panic,
                "VFS: no root\r\nKernel panic - \x07not syncing\n",
            );
        }
        if self.has_fault("makes-a-forbidden-call") {
            forbid_everything();
        }
        if self.has_fault("babbles") {
            self.channel
                .send(&serde_json::json!({"event": "hm"}), &[])
                .unwrap();
        }
        if self.has_fault("answers-unasked") {
            self.reply(77, Reply::Connected);
        }
        if self.has_fault("sends-surplus-files") {
            let file = self.channel.as_fd();
            let phase = FromVmm::Event(Event::Phase {
                phase: Phase::AgentStarted,
                at_ns: 1,
            });
            self.channel.send(&phase, &[file]).unwrap();
        }
        if self.has_fault("floods") {
            // A process in the guest that connects to the host as fast as it can.
            for port in 0..2000 {
                self.connect_host(2000 + port, b"");
            }
        }
        self.phase(Phase::AgentStarted, u64::MAX - 1);
        self.hello();
    }

    /// The guest connects to the host and says something.
    fn connect_host(&self, port: u32, words: &[u8]) {
        let (host, mut guest) = UnixStream::pair().unwrap();
        guest.write_all(words).unwrap();
        let event = FromVmm::Event(Event::GuestConnected { port });
        self.channel.send(&event, &[host.as_fd()]).unwrap();
    }

    fn hello(&self) {
        let mut hello = Hello {
            version: VERSION,
            kernel: "6.12.0-fake".into(),
            missing: Vec::new(),
        };
        if self.has_fault("has-another-version") {
            hello.version = 99;
        }
        if self.has_fault("lacks-options") {
            hello.missing = vec!["CONFIG_MEMCG".into()];
        }
        let words = if self.has_fault("says-nonsense") {
            b"good day\n".to_vec()
        } else if self.has_fault("never-stops-talking") {
            vec![b'x'; 100_000]
        } else if self.has_fault("hangs-up") {
            Vec::new()
        } else {
            hello.to_line().unwrap()
        };
        self.connect_host(HELLO_PORT, &words);
        // Only the first hello counts.
        self.connect_host(HELLO_PORT, b"somebody else\n");
    }

    fn serve(&self) {
        let name = rustix::fs::fstat(&self.channel).unwrap().st_ino;
        let notes: Option<PathBuf> = self.setting("notes").map(Into::into);
        let agent = agent::start(name, notes.clone());
        let note = |line: String| note(notes.as_deref(), &line);
        let mut disks = HashMap::new();
        let (mut wanted, mut asked) = (0, 0);
        let mut has_memory_device = false;
        let mut slots = 16..32;
        // An error means that the sandbox is gone.
        while let Ok((message, files)) = self.channel.receive::<ToVmm>() {
            let mut files = files.into_iter();
            match message.request {
                Request::ConnectGuest { port: AGENT_PORT } if self.has_fault("drops-its-agent") => {
                    self.reply(message.id, Reply::Connected);
                }
                Request::ConnectGuest { port: AGENT_PORT } if self.lie().is_some() => {
                    liar::serve(files.next().unwrap(), self.lie().unwrap());
                    self.reply(message.id, Reply::Connected);
                }
                Request::ConnectGuest { port: AGENT_PORT } => {
                    agent.serve(files.next().unwrap());
                    self.reply(message.id, Reply::Connected);
                    while self.has_fault("stops-reading") {
                        std::thread::park();
                    }
                }
                Request::ConnectGuest { port: STREAM_PORT }
                    if self.has_fault("refuses-streams") =>
                {
                    self.reply(
                        message.id,
                        Reply::Refused {
                            kind: RefusalKind::ConnectionRefused,
                            message: "too many connections".into(),
                        },
                    );
                }
                Request::ConnectGuest { port: STREAM_PORT } => {
                    agent.stream(files.next().unwrap());
                    self.reply(message.id, Reply::Connected);
                }
                Request::ConnectGuest { port: DIAL_PORT } => {
                    self.reply(message.id, Reply::Connected);
                    answer_dial(files.next().unwrap());
                }
                Request::SetVcpus { .. } if self.has_fault("makes-no-vcpus") => self.reply(
                    message.id,
                    Reply::Refused {
                        kind: RefusalKind::Kvm,
                        message: "no vCPU left".into(),
                    },
                ),
                Request::SetVcpus { count } => {
                    assert!(count <= self.boot.max_vcpus);
                    self.reply(message.id, Reply::Done);
                }
                Request::Plug(_) if self.has_fault("has-no-slot") => self.reply(
                    message.id,
                    Reply::Refused {
                        kind: RefusalKind::Resources,
                        message: "no slot left".into(),
                    },
                ),
                Request::Plug(device @ (DeviceConfig::Balloon | DeviceConfig::Memory)) => {
                    note(format!("plugged: {device:?}"));
                    has_memory_device |= device == DeviceConfig::Memory;
                    self.reply(message.id, Reply::Plugged { slot: 15 });
                }
                Request::Plug(device) => {
                    assert_eq!(files.len(), device.file_count());
                    let slot = slots.next().unwrap();
                    if let DeviceConfig::Disk(disk) = device {
                        let way = if disk.read_only {
                            "read-only"
                        } else {
                            "writable"
                        };
                        note(format!("slot {slot}: disk {}, {way}", disk.id));
                        disks.insert(slot, files.next().unwrap());
                    }
                    self.reply(message.id, Reply::Plugged { slot });
                }
                Request::Unplug { slot } => {
                    if disks.remove(&slot).is_some() {
                        note(format!("slot {slot}: unplugged"));
                    } else {
                        assert_eq!(slot + 1, slots.start);
                    }
                    self.reply(message.id, Reply::Done);
                }
                Request::SetHotplugMemory { .. } if !has_memory_device => self.reply(
                    message.id,
                    Reply::Refused {
                        kind: RefusalKind::Invalid,
                        message: "no memory device yet".into(),
                    },
                ),
                Request::SetHotplugMemory { mib } => {
                    assert!(mib <= self.boot.hotplug_memory_mib);
                    // The guest takes a while.
                    asked = 0;
                    wanted = mib;
                    self.reply(message.id, Reply::Done);
                }
                Request::Metrics => {
                    let mut metrics = Metrics::default();
                    asked += 1;
                    metrics.memory.plugged_mib = if asked > 2 { wanted } else { 0 };
                    self.reply(message.id, Reply::Metrics(metrics));
                }
                Request::Stop if self.has_fault("does-not-stop") => {}
                Request::Stop => {
                    self.reply(message.id, Reply::Stopped);
                    self.end(ExitReason::Stopped, "last words\n");
                }
                request => panic!("unexpected request {request:?}"),
            }
        }
    }
}
