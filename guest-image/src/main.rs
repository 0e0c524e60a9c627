//! `caisson-guest-image`: builds the guest kernel and the guest root, and checks kernels.

#![forbid(unsafe_code)]

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use caisson_guest_image::{
    Options, build, check, default_cache, update_source, verify_kernel_reproducible,
};
use clap::{Parser, Subcommand};

/// Builds the guest kernel and the guest root of Caisson.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
    /// Kernel source: a tarball, which gets Caisson's patches, or a tree, which is left as it is
    /// [default: Debian's linux-source package]
    #[arg(long, value_name = "PATH", global = true)]
    kernel_source: Option<PathBuf>,
    /// Folder for downloads and builds [default: $CAISSON_CACHE or ~/.cache/caisson]
    #[arg(long, value_name = "DIR", global = true)]
    cache: Option<PathBuf>,
    /// Compilers at a time [default: one per processor]
    #[arg(long, short, value_name = "N", global = true)]
    jobs: Option<NonZeroUsize>,
    /// Copy the results there as vmlinux and initrd.img
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// First look for a newer package of Debian's
    #[arg(long)]
    update: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say what a kernel lacks for being a guest kernel
    Check {
        /// An uncompressed ELF kernel (vmlinux)
        kernel: PathBuf,
    },
    /// Build the kernel again from nothing, elsewhere, and compare the bytes
    Reproduce,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("caisson-guest-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(Action::Check { kernel }) = &arguments.command {
        return check_kernel(kernel);
    }
    let options = Options {
        workspace: workspace()?,
        cache: arguments.cache.map_or_else(default_cache, Ok)?,
        kernel_source: arguments.kernel_source,
        jobs: arguments.jobs,
    };
    if arguments.update {
        update_source(&options)?;
    }
    if let Some(Action::Reproduce) = arguments.command {
        verify_kernel_reproducible(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let image = build(&options)?;
    match arguments.out {
        None => println!("{}\n{}", image.kernel.display(), image.initrd.display()),
        Some(out) => {
            fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
            for (from, name) in [(image.kernel, "vmlinux"), (image.initrd, "initrd.img")] {
                let to = out.join(name);
                fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
                println!("{}", to.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The checkout: the nearest folder above with the fragments in it.
fn workspace() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    here.ancestors()
        .find(|folder| folder.join("guest-image/kernel").is_dir())
        .map(Path::to_owned)
        .context("not in a checkout of Caisson: there is no guest-image/kernel here or above")
}

fn check_kernel(path: &Path) -> anyhow::Result<ExitCode> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let defects = check::kernel(&file).with_context(|| format!("{}", path.display()))?;
    if defects.is_empty() {
        println!("{}: has what a guest kernel needs", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} cannot be a guest kernel:", path.display());
    for defect in &defects {
        println!("  {defect}");
    }
    Ok(ExitCode::FAILURE)
}
