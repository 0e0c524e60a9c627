//! From the started VMM to the agent's hello.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use caisson_control::{
    BootConfig, DeviceConfig, FileRole, FileServerConfig, RefusalKind, Reply, Request,
};
use caisson_protocol::{Hello, MAX_HELLO, SHARED_TAG};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::machine::{HostFiles, Machine};
use crate::{
    Config, ErrorKind, SandboxError, SandboxOptions, connection, guest_memory, guest_text,
    kernel_check, network,
};

/// A start takes a tenth of a second on hardware and ten to thirty times as long in an emulated
/// machine. The time that the machine waits for a processor, as when many start at once, does not
/// count ([`Machine::within`]). A machine that ends earlier ends the wait.
const START: Duration = Duration::from_secs(60);
/// The guest's vsock context id. Each VMM has its own vsock, so that all may have the same.
const GUEST_CID: u32 = 3;

/// Tells the kernel what it need not probe for. `panic=-1` and `reboot=t`: a panic ends the
/// machine at once, by a triple fault, which needs no device. `pci=conf1`: the configuration ports
/// are there, without ACPI to say so; `noearly`: no bus is searched for faulty chipsets.
/// `noreplace-smp`: no time for CPUs that do not exist. `rootfstype=ramfs`: the archive is unpacked to
/// where nobody writes later, so that the accounting of a tmpfs would be in vain.
///
/// Each parameter costs the start some thirty thousand instructions: Linux compares it four times (eleven
/// times without our patches) with all that it knows. So there is none that says what the kernel does
/// anyway.
const PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=t pci=conf1,noearly noreplace-smp \
                          rootfstype=ramfs";
/// Nothing but a panic is worth an exit to the VMM for each character.
const QUIET: &str = "loglevel=1";
/// For a console that somebody keeps to read it.
const TALKATIVE: &str = "loglevel=7";

/// Which part of the memory that comes later may hold the kernel's own data, and so cannot be given
/// back: as much as the kernel needs to manage the rest, and no more.
const GROWING_MEMORY: &str = "memory_hotplug.online_policy=auto-movable";

/// The command line of the guest's kernel.
fn command_line(config: &Config, options: &SandboxOptions) -> String {
    let SandboxOptions { size, most, .. } = options;
    let level = match config.console_dir {
        Some(_) => TALKATIVE,
        None => QUIET,
    };
    let mut line = format!("{PARAMETERS} {level}");
    if most.vcpus > size.vcpus {
        // The kernel is told of all CPUs there can be, and must not wait for those there are not.
        line.push_str(&format!(" maxcpus={}", size.vcpus));
    }
    if most.memory_mib > size.memory_mib {
        line.push(' ');
        line.push_str(GROWING_MEMORY);
    }
    format!("{line} {}", config.kernel_parameters)
        .trim_end()
        .to_owned()
}

/// Sends the machine to boot, with network interfaces; returns the slot of each, beside the number
/// by which the host knows it. `files` are the file server's socket and the console.
///
/// # Errors
/// [`ErrorKind::FailedPrecondition`] for a kernel that cannot be booted or a KVM that cannot do
/// it; [`ErrorKind::Unavailable`] when the machine ends.
pub(crate) async fn boot(
    machine: &Machine,
    config: &Config,
    options: &SandboxOptions,
    host: HostFiles,
    (file_server, console): (OwnedFd, Option<OwnedFd>),
    interfaces: Vec<network::Device>,
) -> Result<Vec<(u32, u8)>, SandboxError> {
    let mut roles = vec![FileRole::Kvm, FileRole::Kernel, FileRole::Initrd];
    let mut files: Vec<OwnedFd> = vec![host.kvm.into(), host.kernel.into(), host.initrd.into()];
    let SandboxOptions { size, most, .. } = options;
    if let Some(memory) = guest_memory::file(most.memory_mib) {
        roles.push(FileRole::Memory);
        files.push(memory);
    }
    if let Some(console) = console {
        roles.push(FileRole::Console);
        files.push(console);
    }
    // The files of the devices come last.
    files.push(file_server);
    let mut devices = vec![DeviceConfig::FileServer(FileServerConfig {
        tag: SHARED_TAG.into(),
    })];
    let mut numbers = Vec::new();
    for interface in interfaces {
        numbers.push(interface.index);
        devices.push(DeviceConfig::Net(interface.config));
        files.push(interface.tap);
    }
    let request = Request::Boot(BootConfig {
        version: caisson_control::VERSION,
        vcpus: size.vcpus,
        max_vcpus: most.vcpus,
        memory_mib: size.memory_mib,
        hotplug_memory_mib: most.memory_mib - size.memory_mib,
        virtio_console: false,
        cmdline: command_line(config, options),
        guest_cid: GUEST_CID,
        files: roles,
        devices,
    });
    let reply = machine
        .within(START, machine.ask(request, files))
        .await
        .ok_or_else(|| {
            SandboxError::new(
                ErrorKind::Unavailable,
                format!(
                    "the VMM did not build the machine within {} s",
                    START.as_secs()
                ),
            )
        })??;
    match reply {
        Reply::Booted { slots } if slots.len() == numbers.len() + 1 => {
            Ok(numbers.into_iter().zip(slots.into_iter().skip(1)).collect())
        }
        Reply::Refused { kind, message } => Err(refused(config, kind, &message)),
        reply => Err(connection::unexpected(machine, &reply).await),
    }
}

fn refused(config: &Config, kind: RefusalKind, message: &str) -> SandboxError {
    let message = guest_text::line(message);
    let (kind, message) = match kind {
        RefusalKind::Kernel => (
            ErrorKind::FailedPrecondition,
            format!(
                "kernel {} cannot be booted: {message}; build the guest image again, or set \
                 `kernel` in the configuration file",
                config.kernel.display()
            ),
        ),
        RefusalKind::Kvm => (ErrorKind::FailedPrecondition, format!("KVM: {message}")),
        RefusalKind::Resources => (
            ErrorKind::Unavailable,
            format!("not enough left for another virtual machine: {message}"),
        ),
        RefusalKind::Invalid | RefusalKind::ConnectionRefused | RefusalKind::Device => (
            ErrorKind::Internal,
            format!("the VMM refused to build the machine: {message}"),
        ),
    };
    SandboxError::new(kind, message)
}

/// Waits for the agent's hello and checks it.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when none comes, with the last lines of the console and, where the
/// kernel can tell, the options it lacks; [`ErrorKind::FailedPrecondition`] for a guest that does
/// not fit.
pub(crate) async fn hello(
    machine: &Machine,
    config: &Config,
    connected: oneshot::Receiver<OwnedFd>,
) -> Result<Hello, SandboxError> {
    let hello = tokio::select! {
        biased;
        hello = machine.within(START, read_hello(connected)) => match hello {
            Some(hello) => hello,
            None => Err(format!(
                "the guest did not come up: its agent did not report within {} s",
                START.as_secs()
            )),
        },
        end = machine.ended() => Err(format!("the guest did not come up: {}", end.description)),
    };
    match hello {
        Ok(hello) => {
            check(&hello, &config.kernel)?;
            Ok(hello)
        }
        Err(problem) => Err(no_hello(machine, config, problem).await),
    }
}

/// Reads the one line. The reader takes no byte beyond [`MAX_HELLO`].
async fn read_hello(connected: oneshot::Receiver<OwnedFd>) -> Result<Hello, String> {
    let Ok(socket) = connected.await else {
        // The machine has ended; that says more.
        return std::future::pending().await;
    };
    let stream = std::os::unix::net::UnixStream::from(socket);
    let stream = stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|error| format!("the agent's hello cannot be read: {error}"))?;
    let mut stream = stream.take(MAX_HELLO as u64);
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    while !line.ends_with(b"\n") {
        match stream.read(&mut chunk).await {
            Ok(count @ 1..) => line.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Ok(_) => break,
            Err(error) => return Err(format!("the agent's hello cannot be read: {error}")),
        }
    }
    Hello::from_line(&line).map_err(|error| guest_text::line(&error.to_string()))
}

fn check(hello: &Hello, kernel: &Path) -> Result<(), SandboxError> {
    let problem = if hello.version != caisson_protocol::VERSION {
        format!(
            "the guest's agent speaks version {} of the protocol and this runtime version {}: \
             install runtime and guest image of one build",
            hello.version,
            caisson_protocol::VERSION
        )
    } else if hello.missing.is_empty() {
        return Ok(());
    } else {
        format!(
            "the guest kernel {} ({}) lacks {}: build it with these set to y",
            kernel.display(),
            guest_text::line(&hello.kernel),
            guest_text::line(&hello.missing.join(", "))
        )
    };
    Err(SandboxError::new(ErrorKind::FailedPrecondition, problem))
}

/// Adds what the console and the kernel file tell to a start that failed.
async fn no_hello(machine: &Machine, config: &Config, problem: String) -> SandboxError {
    machine.stop().await;
    let console = machine.ended().await.console;
    let mut message = problem;
    if !console.is_empty() && !message.contains(&console) {
        message = format!("{message}; the last lines of its console:\n{console}");
    }
    let kernel = config.kernel.clone();
    let missing = tokio::task::spawn_blocking(move || kernel_check::missing_options(&kernel)).await;
    let mut kind = ErrorKind::Unavailable;
    match missing {
        Ok(Ok(Some(missing))) if !missing.is_empty() => {
            kind = ErrorKind::FailedPrecondition;
            message = format!(
                "kernel {}: {}\n{message}",
                config.kernel.display(),
                kernel_check::describe(&missing)
            );
        }
        Ok(Err(error)) => tracing::warn!(
            "configuration of kernel {}: {error}",
            config.kernel.display()
        ),
        Ok(Ok(_)) | Err(_) => {}
    }
    SandboxError::new(kind, message)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use std::path::Path;

    use caisson_protocol::Hello;

    use super::{check, command_line};
    use crate::{Config, SandboxOptions, VmSize};

    fn options(most: VmSize) -> SandboxOptions {
        SandboxOptions {
            id: "pod".into(),
            namespace: "default".into(),
            state_dir: "/run/caisson/default/pod".into(),
            size: VmSize {
                vcpus: 2,
                memory_mib: 256,
            },
            most,
            netns: None,
        }
    }

    #[test]
    fn the_command_line_is_quiet_unless_the_console_is_kept() {
        let mut config = Config::default();
        let most = VmSize {
            vcpus: 2,
            memory_mib: 256,
        };
        let line = command_line(&config, &options(most));
        assert!(line.ends_with("rootfstype=ramfs loglevel=1"), "{line}");
        config.console_dir = Some("/var/log".into());
        config.kernel_parameters = "rdinit=/x".into();
        let line = command_line(&config, &options(most));
        assert!(line.ends_with(" loglevel=7 rdinit=/x"), "{line}");
    }

    #[test]
    fn a_machine_that_can_grow_is_told_how() {
        let most = VmSize {
            vcpus: 8,
            memory_mib: 512,
        };
        let line = command_line(&Config::default(), &options(most));
        assert!(
            line.ends_with(" maxcpus=2 memory_hotplug.online_policy=auto-movable"),
            "{line}"
        );
    }

    #[test]
    fn a_guest_that_does_not_fit_is_told_what_it_lacks() {
        let fitting = Hello {
            version: caisson_protocol::VERSION,
            kernel: "6.12.1".into(),
            missing: Vec::new(),
        };
        check(&fitting, Path::new("/vmlinux")).unwrap();
        let lacking = Hello {
            missing: vec!["CONFIG_MEMCG".into(), "CONFIG_\x1bX".into()],
            ..fitting.clone()
        };
        let message = check(&lacking, Path::new("/vmlinux"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "the guest kernel /vmlinux (6.12.1) lacks CONFIG_MEMCG, CONFIG_ X: \
             build it with these set to y"
        );
        let other = Hello {
            version: 99,
            ..fitting
        };
        let message = check(&other, Path::new("/vmlinux"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("version 99"), "{message}");
    }
}
