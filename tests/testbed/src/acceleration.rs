//! Whether this machine's own KVM can run the outer machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::exit_status::ExitStatus;
use crate::progress;
use crate::qemu::{Acceleration, Machine, MachineOptions};
use crate::request::Request;
use crate::session::{Session, Stdin};

/// A kernel on real KVM is through with this in two seconds. There are implementations of KVM that
/// are a hundred times slower than emulation, which would get there in the end.
const DEADLINE: Duration = Duration::from_secs(20);

/// Finds out how to run the outer machine, by trying; the answer is kept until the next boot.
///
/// Only the device file's presence would not do: it also exists where KVM is made of software that
/// cannot start a kernel, and where virtual machines may not have virtual machines of their own.
pub(crate) fn choose(
    cache: &Cache,
    kernel: &Path,
    initramfs: &Path,
    options: MachineOptions,
) -> Result<Acceleration> {
    // Only emulation can count instructions.
    if options.icount || !usable_by_us() {
        return Ok(Acceleration::Emulation);
    }
    let boot = fs::read("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
    let key = Key::of(&[
        boot.as_slice(),
        kernel.as_os_str().as_encoded_bytes(),
        // One answer per version of the probe.
        b"1",
    ]);
    let answer = cache.artefact("kvm", &key, |target| {
        let works = progress::step("trying whether this machine's KVM runs a kernel", || {
            Ok(works(kernel, initramfs))
        })?;
        if !works {
            progress::line("it does not; the testbed will be emulated");
        }
        fs::write(target, if works { "yes" } else { "no" }).context("keeping the answer")
    })?;
    Ok(match fs::read_to_string(answer)?.as_str() {
        "yes" => Acceleration::Kvm,
        _ => Acceleration::Emulation,
    })
}

fn usable_by_us() -> bool {
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

fn works(kernel: &Path, initramfs: &Path) -> bool {
    let machine = Machine {
        kernel,
        initramfs,
        disks: &[],
        share: None,
        options: MachineOptions {
            cpus: Some(1),
            memory: 512,
            icount: false,
        },
        acceleration: Acceleration::Kvm,
    };
    let attempt = || -> Result<ExitStatus> {
        let (running, link) = machine.start()?;
        Session {
            machine: running,
            link,
            request: &Request::Probe,
            stdin: Stdin::Empty,
            signals: None,
            patience: Some(DEADLINE),
        }
        .run(&mut |_, _| Ok(()))
    };
    attempt().is_ok_and(ExitStatus::success)
}
