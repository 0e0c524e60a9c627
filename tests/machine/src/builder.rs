//! What machine a test wants.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;

use caisson_control::{
    BootConfig, DeviceConfig, FileRole, FileServerConfig, Reply, Request, VERSION,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::machine::{TestMachine, VMM};
use crate::process;

const FILE_SERVER: &str = "/usr/local/libexec/caisson/caisson-fs";
/// The installed guest kernel.
pub const KERNEL: &str = "/usr/local/share/caisson/vmlinux";
/// The test guest lies beside the test program.
const TEST_GUEST: &str = "caisson-test-guest";

/// The tag under which the test guest looks for its root.
const ROOT_TAG: &str = "root";
/// The guest's number on vsock.
pub const GUEST_CID: u32 = 3;

/// What the shim gives to a guest. It says why.
pub const PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=t pci=conf1,noearly noreplace-smp \
                          rootfstype=ramfs loglevel=1";

/// A device with its files, for [`Builder::device`] or [`TestMachine::plug`].
#[derive(Debug)]
pub struct Device {
    /// What the VMM is told. To be changed at will.
    pub config: DeviceConfig,
    /// The files that go with it.
    pub files: Vec<OwnedFd>,
    /// The process at the other end, if there is one.
    pub(crate) server: Option<Child>,
}

impl Device {
    /// Any device.
    #[must_use]
    pub fn new(config: DeviceConfig, files: Vec<OwnedFd>) -> Self {
        Self {
            config,
            files,
            server: None,
        }
    }

    /// A directory that the guest can mount by `tag`, to read and write. The file server ends
    /// with the calling thread at the latest.
    ///
    /// # Panics
    /// Panics when the file server is not installed or there is no directory.
    #[must_use]
    #[track_caller]
    pub fn file_server(tag: &str, directory: &Path) -> Self {
        let directory = File::open(directory).expect("the directory can be opened");
        let (ours, theirs) = UnixStream::pair().expect("there are descriptors left");
        let files = [theirs.as_fd(), directory.as_fd()];
        let server = process::spawn(Path::new(FILE_SERVER), &files);
        let tag = tag.to_owned();
        Self {
            config: DeviceConfig::FileServer(FileServerConfig { tag }),
            files: vec![ours.into()],
            server: Some(server.expect("caisson-fs is installed")),
        }
    }
}

/// A machine to be. Without further words: one vCPU, 256 MiB, the outer machine's root, and every device
/// that needs no file.
#[derive(Debug)]
pub struct Builder {
    vmm: PathBuf,
    vcpus: u8,
    max_vcpus: u8,
    memory_mib: u32,
    hotplug_memory_mib: u32,
    parameters: String,
    root: bool,
    every_device: bool,
    virtio_console: bool,
    kernel: Option<File>,
    initrd: Option<File>,
    devices: Vec<Device>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            vmm: VMM.into(),
            vcpus: 1,
            max_vcpus: 1,
            memory_mib: 256,
            hotplug_memory_mib: 0,
            parameters: String::new(),
            root: true,
            every_device: true,
            virtio_console: false,
            kernel: None,
            initrd: None,
            devices: Vec::new(),
        }
    }
}

impl Builder {
    /// Another `caisson-vmm` than the installed one.
    #[must_use]
    pub fn vmm(mut self, program: &Path) -> Self {
        self.vmm = program.to_owned();
        self
    }

    /// Number of vCPUs at first.
    #[must_use]
    pub fn vcpus(mut self, count: u8) -> Self {
        self.vcpus = count;
        self.max_vcpus = self.max_vcpus.max(count);
        self
    }

    /// Number of vCPUs that there can be later.
    #[must_use]
    pub fn max_vcpus(mut self, count: u8) -> Self {
        self.max_vcpus = count;
        self
    }

    /// Memory at first.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Most memory that can be plugged later.
    #[must_use]
    pub fn hotplug_memory_mib(mut self, mib: u32) -> Self {
        self.hotplug_memory_mib = mib;
        self
    }

    /// More words for the kernel's command line.
    #[must_use]
    pub fn parameters(mut self, words: &str) -> Self {
        self.parameters.push(' ');
        self.parameters.push_str(words);
        self
    }

    /// Without the outer machine's root: no program can be run in the guest, but everything else
    /// that [`crate::Request`] names is there.
    #[must_use]
    pub fn without_root(mut self) -> Self {
        self.root = false;
        self
    }

    /// Without the devices that a pod's machine has only when it wants them, or never: the balloon, the
    /// memory device, the source of random numbers.
    #[must_use]
    pub fn without_late_devices(mut self) -> Self {
        self.every_device = false;
        self
    }

    /// With a console that is faster than the serial port, for the parameter `console=hvc0`.
    #[must_use]
    pub fn virtio_console(mut self) -> Self {
        self.virtio_console = true;
        self
    }

    /// Another initial root file system than that of the test guest, and then without the outer
    /// machine's root. [`Builder::boot`] waits for the test guest: use [`Builder::start`].
    #[must_use]
    pub fn initrd(mut self, archive: File) -> Self {
        self.initrd = Some(archive);
        self.without_root()
    }

    /// Another kernel than the installed one, without any initial root file system. Nobody will say
    /// hello: use [`Builder::start`].
    #[must_use]
    pub fn kernel(mut self, kernel: File) -> Self {
        self.kernel = Some(kernel);
        self.without_root()
    }

    /// A device that is there from the start.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }

    /// Boots the machine and waits until its guest takes requests.
    ///
    /// # Panics
    /// Panics with the guest's last words when it does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot(self) -> TestMachine {
        let machine = self.start();
        machine.expect_hello();
        machine
    }

    /// Boots the machine and returns when its first instruction runs.
    ///
    /// # Panics
    /// Panics when the VMM refuses.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> TestMachine {
        let skipped = self.late_devices().len() + usize::from(self.root);
        let (mut machine, reply) = self.ask();
        let Reply::Booted { slots } = reply else {
            panic!("the VMM does not boot the machine: {reply:?}");
        };
        machine.slots = slots.get(skipped..).unwrap_or_default().to_vec();
        machine
    }

    fn late_devices(&self) -> Vec<Device> {
        let mut devices = Vec::new();
        if self.every_device {
            devices.extend([DeviceConfig::Rng, DeviceConfig::Balloon]);
            if self.hotplug_memory_mib > 0 {
                devices.push(DeviceConfig::Memory);
            }
        }
        let device = |config| Device::new(config, Vec::new());
        devices.into_iter().map(device).collect()
    }

    /// Starts the VMM, sends the boot request and returns its answer, whatever it is.
    ///
    /// # Panics
    /// Panics when there is no answer, or something is not installed.
    #[must_use]
    #[track_caller]
    pub fn ask(mut self) -> (TestMachine, Reply) {
        let mut first: Vec<Device> = self.late_devices();
        if self.root {
            first.push(Device::file_server(ROOT_TAG, Path::new("/")));
        }
        self.devices.splice(..0, first);
        // Before the VMM starts, which is when a benchmark's clock does.
        let (kernel, initrd) = match (self.kernel.take(), self.initrd.take()) {
            (Some(kernel), initrd) => (kernel, initrd),
            (None, initrd) => (installed_kernel(), Some(initrd.unwrap_or_else(test_guest))),
        };
        let machine = TestMachine::new(&self.vmm);
        let console = machine.console_file();
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        let ram = self.memory_mib + self.hotplug_memory_mib;
        let mut files: Vec<(FileRole, OwnedFd)> = vec![
            (FileRole::Kvm, kvm.expect("this machine has KVM").into()),
            (FileRole::Kernel, kernel.into()),
            (FileRole::Console, console.into()),
            (FileRole::Memory, memory_file(ram)),
        ];
        files.extend(initrd.map(|file| (FileRole::Initrd, file.into())));
        let roles = files.iter().map(|(role, _)| role.clone()).collect();
        let (mut configs, mut servers) = (Vec::new(), Vec::new());
        for device in self.devices {
            // The role is not looked at any more.
            files.extend(device.files.into_iter().map(|file| (FileRole::Kvm, file)));
            configs.push(device.config);
            servers.extend(device.server);
        }
        let config = BootConfig {
            version: VERSION,
            vcpus: self.vcpus,
            max_vcpus: self.max_vcpus,
            memory_mib: self.memory_mib,
            hotplug_memory_mib: self.hotplug_memory_mib,
            virtio_console: self.virtio_console,
            cmdline: format!("{PARAMETERS} maxcpus={}{}", self.vcpus, self.parameters),
            guest_cid: GUEST_CID,
            files: roles,
            devices: configs,
        };
        machine.adopt(servers);
        let borrowed: Vec<_> = files.iter().map(|(_, file)| file.as_fd()).collect();
        let reply = machine.request(Request::Boot(config), &borrowed);
        (machine, reply)
    }
}

fn installed_kernel() -> File {
    File::open(KERNEL).expect("the guest kernel is installed")
}

/// An initial root file system with the test guest as its first program.
#[track_caller]
fn test_guest() -> File {
    let program = std::env::current_exe().expect("this program has a path");
    initrd_of(&program.with_file_name(TEST_GUEST))
}

/// An initial root file system with this program as its first.
///
/// # Panics
/// Panics when the program is not there.
#[must_use]
#[track_caller]
pub fn initrd_of(guest: &Path) -> File {
    let guest = std::fs::read(guest).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; `cargo verify` builds and puts it there",
            guest.display()
        )
    });
    let archive = caisson_guest_image::initrd_from_agent(guest).expect("it is not that large");
    let mut file = tempfile::tempfile().expect("there is room in /tmp");
    file.write_all(&archive)
        .and_then(|()| file.rewind())
        .expect("there is room in /tmp");
    file
}

/// What the guest's RAM is made of: as the shim does it, an unnamed file on a tmpfs of its own with
/// huge pages for those who ask for them.
fn memory_file(mib: u32) -> OwnedFd {
    let make = || -> rustix::io::Result<OwnedFd> {
        let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&tmpfs, "huge", "advise")?;
        fsconfig_set_string(&tmpfs, "size", format!("{mib}m"))?;
        fsconfig_create(&tmpfs)?;
        let attributes = MountAttrFlags::empty();
        let mount = fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(&mount, ".", flags, Mode::RUSR | Mode::WUSR)
    };
    make().expect("a tmpfs can be made")
}
