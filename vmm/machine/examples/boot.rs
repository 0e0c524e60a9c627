//! Boots a kernel by hand: plays the shim for one machine.
//!
//! ```sh
//! cargo run -p caisson-vmm --example boot -- kernel=vmlinux initrd=initrd.cpio vcpus=2 memory=256
//! ```
//!
//! Prints what the machine says on its console and on the control channel. Runs the `caisson-vmm`
//! that lies beside the directory of the examples. `share=DIR` starts the `caisson-fs` there as
//! well and shows the directory to the guest under the tag `share`; `memory-in=DIR` makes the guest's
//! RAM a file there. `hotplug=MIB` lets the guest plug that much memory and asks it to do so once it
//! has started its agent, `balloon=MIB` asks it then to give that much back; `hvc` adds a console
//! device. Other words go to the kernel's command line, in
//! front of which the recommended one is put. `metrics` asks for the counters and `stop` for the
//! end of the machine, once the guest has started its agent.
#![allow(unsafe_code, clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use caisson_control::{
    BootConfig, CONTROL_FD, Channel, ChannelError, DeviceConfig, Event, FileRole, FileServerConfig,
    FromVmm, Reply, Request, ToVmm, VERSION,
};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut kernel, mut initrd, mut share) = (None, None, None);
    let mut memory_file = None;
    let (mut vcpus, mut memory_mib) = (1, 128);
    let mut cmdline = caisson_vmm::COMMAND_LINE.to_owned();
    let (mut metrics, mut stop, mut virtio_console) = (false, false, false);
    let (mut hotplug_memory_mib, mut balloon_mib) = (0, 0);
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("kernel", path)) => kernel = Some(File::open(path)?),
            Some(("initrd", path)) => initrd = Some(File::open(path)?),
            Some(("share", path)) => share = Some(File::open(path)?),
            Some(("memory-in", directory)) => memory_file = Some(unnamed_file(directory)?),
            Some(("vcpus", number)) => vcpus = number.parse()?,
            Some(("memory", number)) => memory_mib = number.parse()?,
            Some(("hotplug", number)) => hotplug_memory_mib = number.parse()?,
            Some(("balloon", number)) => balloon_mib = number.parse()?,
            _ if argument == "hvc" => virtio_console = true,
            _ if argument == "metrics" => metrics = true,
            _ if argument == "stop" => stop = true,
            _ => {
                cmdline.push(' ');
                cmdline.push_str(&argument);
            }
        }
    }
    let console = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let mut files = vec![
        (FileRole::Kvm, kvm),
        (FileRole::Kernel, kernel.ok_or("kernel=PATH is missing")?),
        (FileRole::Console, console),
    ];
    files.extend(initrd.map(|file| (FileRole::Initrd, file)));
    let (mut devices, mut device_files) = (Vec::new(), Vec::new());
    let mut server = None;
    if let Some(directory) = share {
        let (ours, theirs) = UnixStream::pair()?;
        server = Some(spawn("caisson-fs", vec![theirs.into(), directory.into()])?);
        let tag = "share".to_owned();
        devices.push(DeviceConfig::FileServer(FileServerConfig { tag }));
        device_files.push(File::from(OwnedFd::from(ours)));
    }
    files.extend(memory_file.map(|file| (FileRole::Memory, file)));
    let config = BootConfig {
        version: VERSION,
        vcpus,
        max_vcpus: vcpus,
        memory_mib,
        hotplug_memory_mib,
        virtio_console,
        cmdline,
        guest_cid: 3,
        files: files.iter().map(|(role, _)| role.clone()).collect(),
        devices,
    };

    let started = now();
    let (channel, vmm) = Channel::pair()?;
    let mut child = spawn("caisson-vmm", vec![vmm.into(), identity()?])?;
    let files: Vec<_> = files.into_iter().map(|(_, file)| file).collect();
    let borrowed: Vec<_> = files.iter().chain(&device_files).map(AsFd::as_fd).collect();
    let request = Request::Boot(config);
    channel.send(&ToVmm { id: 1, request }, &borrowed)?;
    drop((files, device_files));
    loop {
        let message = match channel.receive::<FromVmm>() {
            Ok((message, _)) => message,
            Err(ChannelError::Closed) => break,
            Err(error) => return Err(error.into()),
        };
        let at = (now() - started) / 1000;
        match &message {
            FromVmm::Event(Event::Phase { phase, at_ns }) => {
                println!("[{at:>8} us] {phase:?} at {} us", (at_ns - started) / 1000);
            }
            FromVmm::Event(Event::Exit(exit)) => {
                println!(
                    "[{at:>8} us] exit: {:?}, console tail {:?}",
                    exit.reason, exit.console
                );
            }
            message => println!("[{at:>8} us] {message:?}"),
        }
        let booted = matches!(
            message,
            FromVmm::Event(Event::Phase {
                phase: caisson_control::Phase::AgentStarted,
                ..
            })
        );
        if booted && hotplug_memory_mib > 0 {
            let mib = hotplug_memory_mib;
            let request = Request::SetHotplugMemory { mib };
            channel.send(&ToVmm { id: 4, request }, &[])?;
        }
        if booted && balloon_mib > 0 {
            let request = Request::SetBalloon { mib: balloon_mib };
            channel.send(&ToVmm { id: 5, request }, &[])?;
        }
        if booted && metrics {
            let request = Request::Metrics;
            channel.send(&ToVmm { id: 2, request }, &[])?;
        }
        if booted && stop {
            let request = Request::Stop;
            channel.send(&ToVmm { id: 3, request }, &[])?;
        }
        if let FromVmm::Reply {
            reply: Reply::Refused { .. },
            ..
        } = message
        {
            break;
        }
    }
    drop(channel);
    let status = child.wait()?;
    if let Some(mut server) = server {
        println!("caisson-fs ended: {}", server.wait()?);
    }
    println!(
        "[{:>8} us] caisson-vmm ended: {status}",
        (now() - started) / 1000
    );
    Ok(())
}

/// Starts a program that lies above the directory of the examples, with `files` as descriptors 3
/// and up.
fn spawn(program: &str, files: Vec<OwnedFd>) -> Result<Child, Box<dyn Error>> {
    let example = std::env::current_exe()?;
    let binary = example
        .parent()
        .and_then(|examples| examples.parent())
        .ok_or("no directory above the examples")?
        .join(program);
    let mut command = Command::new(binary);
    let inherit = move || {
        // Out of the way first: one may have the number that another is to get.
        let high = files
            .iter()
            .map(|file| rustix::io::fcntl_dupfd_cloexec(file, 100))
            .collect::<Result<Vec<_>, _>>()?;
        for (file, number) in high.iter().zip(CONTROL_FD..) {
            // SAFETY: dup2 only changes the table of descriptors of the new process.
            if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the process has only one thread, so the new one can do anything.
    unsafe { command.pre_exec(inherit) };
    Ok(command.spawn()?)
}

/// A file that says who the VMM is to be: a user of no importance.
fn identity() -> Result<OwnedFd, Box<dyn Error>> {
    let file = rustix::fs::memfd_create("identity", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::io::write(
        &file,
        format!("{}\n", 2_103_000_000 + std::process::id()).as_bytes(),
    )?;
    Ok(file)
}

/// A file without a name in `directory`, which should be on a tmpfs.
fn unnamed_file(directory: &str) -> std::io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
