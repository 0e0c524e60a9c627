//! QEMU, as Debian builds it, carried here with its libraries and firmware.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use caisson_machine_tests::{Disk, GUEST_CID, HELLO_PORT, KERNEL, PARAMETERS};
use tempfile::NamedTempFile;

use crate::contender::{Guest, Machine};
use crate::streams::{self, Listeners};
use crate::transfer::STREAM_PORT;

/// The port to which Caisson's own agent says hello.
pub(crate) const AGENT_HELLO_PORT: u32 = 1024;

/// An installation in a directory.
pub(crate) struct Qemu {
    directory: PathBuf,
    listeners: Listeners,
}

/// How the I/O of a QEMU is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// As its users have it who say nothing: threads for the disk, packets in its main loop.
    Default,
    /// As its manual recommends: io_uring in a thread of its own, packets in the host's kernel.
    Tuned,
}

impl Qemu {
    /// Copies what was staged to a disk of this machine, from which programs start as fast as ours.
    pub(crate) fn installed(staged: &Path) -> Self {
        let directory = PathBuf::from("/var/tmp/caisson-measure-qemu");
        let _ = fs::remove_dir_all(&directory);
        run(Command::new("cp").arg("-r").arg(staged).arg(&directory));
        run(Command::new("modprobe").args(["-a", "vhost_vsock", "vhost_net"]));
        Self {
            directory,
            listeners: Listeners::on(&[HELLO_PORT, AGENT_HELLO_PORT, STREAM_PORT]),
        }
    }

    /// The version, as it says it.
    pub(crate) fn version(&self) -> String {
        let output = self.command().arg("--version").output();
        let text = output.expect("QEMU can be executed").stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .next()
            .unwrap_or_default()
            .replace("emulator version ", "")
    }

    /// Boots a guest in the machine made for starting fast. Its devices are virtio-mmio, which this
    /// kernel does not have, so it gets none.
    pub(crate) fn microvm(&self, guest: &Guest, memory_mib: u32) -> Box<dyn Machine + '_> {
        let machine = "microvm,x-option-roms=off,rtc=off,isa-serial=off,pit=off,pic=off,acpi=off";
        self.start(guest, memory_mib, &["-M", machine])
    }

    /// Boots a guest with vsock and a source of random numbers on a PCI bus.
    pub(crate) fn q35(&self, guest: &Guest, memory_mib: u32) -> Box<dyn Machine + '_> {
        self.start(guest, memory_mib, &Self::pci())
    }

    /// Boots a guest with a disk and a network interface as well.
    pub(crate) fn busy(
        &self,
        guest: &Guest,
        memory_mib: u32,
        engine: Engine,
        disk: &Disk,
        tap: &str,
    ) -> Box<dyn Machine + '_> {
        let path = disk.path().display();
        let (asynchronous, thread, vhost) = match engine {
            Engine::Default => ("threads", "", "off"),
            Engine::Tuned => ("io_uring", ",iothread=io", "on"),
        };
        let drive = format!("if=none,id=disk,file={path},format=raw,aio={asynchronous}");
        let block = format!("virtio-blk-pci,drive=disk{thread}");
        let network = format!("tap,id=net,ifname={tap},script=no,downscript=no,vhost={vhost}");
        let mut arguments = Self::pci();
        if engine == Engine::Tuned {
            arguments.extend(["-object", "iothread,id=io"]);
        }
        arguments.extend(["-drive", &drive, "-device", &block]);
        arguments.extend(["-netdev", &network]);
        arguments.extend(["-device", "virtio-net-pci,netdev=net,romfile="]);
        self.start(guest, memory_mib, &arguments)
    }

    fn pci() -> Vec<&'static str> {
        let machine = "q35,usb=off,sata=off,smbus=off,vmport=off,hpet=off,acpi=off,smm=off";
        // With it, QEMU rewrites the vCPU's registers when Linux touches the APIC, and the segment
        // type that KVM then has for the TSS makes the testbed's emulator deny the guest's programs
        // every I/O port, also the phase port. No Linux guest gains anything by it.
        let apic = "kvm-apic.vapic=off";
        let vsock = "vhost-vsock-pci,guest-cid=3";
        const { assert!(GUEST_CID == 3) };
        let mut arguments = vec!["-M", machine, "-global", apic];
        arguments.extend(["-device", vsock, "-device", "virtio-rng-pci"]);
        arguments
    }

    fn start(&self, guest: &Guest, memory_mib: u32, machine: &[&str]) -> Box<dyn Machine + '_> {
        let console = NamedTempFile::new().expect("there is room in /tmp");
        let mut command = self.command();
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-accel", "kvm", "-cpu", "host", "-smp", "1"]);
        command.args(["-m", &format!("{memory_mib}M"), "-kernel", KERNEL]);
        command.arg("-initrd").arg(guest.path());
        command.args(["-append", &format!("{PARAMETERS} maxcpus=1")]);
        command.args(machine);
        if machine.iter().any(|word| word.starts_with("q35")) {
            // The test guest is a program that expects standard streams.
            command
                .arg("-serial")
                .arg(format!("file:{}", console.path().display()));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Box::new(Running {
            child: child.expect("QEMU can be executed"),
            listeners: &self.listeners,
            console,
        })
    }

    /// QEMU with its own libraries, which are not those of this machine.
    fn command(&self) -> Command {
        let mut command = Command::new(self.directory.join("ld.so"));
        command
            .arg("--library-path")
            .arg(self.directory.join("lib"));
        command.arg(self.directory.join("qemu-system-x86_64"));
        command.arg("-L").arg(self.directory.join("firmware"));
        command
    }
}

struct Running<'a> {
    child: Child,
    listeners: &'a Listeners,
    console: NamedTempFile,
}

impl Machine for Running<'_> {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn accept(&self, port: u32) -> File {
        self.listeners.accept(port, || {
            fs::read_to_string(self.console.path()).unwrap_or_default()
        })
    }

    fn connect(&self, port: u32) -> File {
        streams::connect(port)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) {
    let status = command.status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
