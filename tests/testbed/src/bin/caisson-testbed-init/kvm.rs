//! KVM inside the outer machine.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::devices;

/// Loads the KVM module of this processor.
pub(crate) fn load_module() -> Result<()> {
    let processor = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let has = |flag: &str| {
        processor
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_ascii_whitespace().any(|word| word == flag))
    };
    if has("svm") {
        devices::load_modules("kvm-amd")
    } else if has("vmx") {
        devices::load_modules("kvm-intel")
    } else {
        bail!("the processor shows neither SVM nor VMX")
    }
}

/// Loads KVM and opens it: what "nesting works" means before a guest is at hand.
pub(crate) fn probe() -> Result<()> {
    load_module()?;
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("opening /dev/kvm")?;
    Ok(())
}
