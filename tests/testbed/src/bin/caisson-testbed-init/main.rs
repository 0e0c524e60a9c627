//! The init of the outer machine: `/init` of its initramfs and PID 1 until the machine stops.
//!
//! It loads the kernel modules packed beside it, mounts the root disk, starts containerd, runs what
//! the host side asks for over the virtio-serial port, and reports the exit status. It replaces an
//! init system because one costs twenty seconds of emulation per start.

mod command;
mod containerd;
mod devices;
mod import;
mod kvm;
mod link;
mod mounts;
mod processes;

use std::process::ExitCode;

use anyhow::{Context, Result};
use caisson_testbed::Request;
use link::Link;
use processes::Processes;

/// Where programs are looked for, by us and by the command.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "import"
    {
        return match import::run(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    // Without the port there is nobody to tell but the console, which the host side keeps.
    if let Err(error) = boot() {
        eprintln!("testbed init: {error:#}");
    }
    // PID 1 must not return: the kernel would panic over it.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn boot() -> Result<()> {
    mounts::kernel_file_systems()?;
    let mut link = Link::open()?;
    let request = link.request()?;
    if let Err(error) = serve(&request, &mut link) {
        link.failed(&format!("{error:#}"))?;
    }
    link.wait_for_the_end()
}

fn serve(request: &Request, link: &mut Link) -> Result<()> {
    match request {
        Request::Probe => {
            kvm::probe()?;
            link.exit(0)
        }
        Request::Run(run) => {
            devices::load_modules("run")?;
            kvm::load_module().context("nested virtualisation")?;
            if run.share {
                devices::load_modules("share")?;
            }
            mounts::switch_to_root_disk()?;
            mounts::machine_file_systems()?;
            mounts::installed_files()?;
            if run.share {
                mounts::share()?;
            }
            devices::loopback_up()?;
            let processes = Processes::new()?;
            containerd::allow_many_files()?;
            let beating = run.heartbeat.then_some(&mut *link);
            containerd::start(&[], &processes, beating)?;
            let status = command::run(run, &processes, link)?;
            if run.share {
                mounts::flush_share()?;
            }
            link.exit(status)
        }
    }
}
