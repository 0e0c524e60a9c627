//! The guest kernel: configured from the fragments, compiled, packed, checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::definition::KconfigFiles;
use crate::fragments::Fragments;
use crate::kconfig::{Config, Unmet};
use crate::patches::Patches;
use crate::progress::{run_logged, say};
use crate::source::{Source, remove_folder};
use crate::{Options, check, elf, padding, replace_file, toolchain};

/// Raised when what is done to a kernel changes, so that caches made before do not count.
const BUILDER: u32 = 3;
/// Steps of a whole build, for the percentage until one has been counted.
const USUAL_STEPS: u64 = 2100;
/// Instead of the time, user and machine of the build, which would make every kernel different.
/// The number is the one that `uname -v` begins with.
const IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "caisson"),
    ("KBUILD_BUILD_HOST", "caisson"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Builds the guest kernel, or finds it up to date, and returns its path.
///
/// # Errors
/// Fails if the source cannot be had, an option cannot be set, or the build fails; says which.
pub fn build_kernel(options: &Options) -> anyhow::Result<PathBuf> {
    let _lock = options.lock_cache()?;
    toolchain::require()?;
    let fragments = read_fragments(options)?;
    let patches = read_patches(options)?;
    let source = Source::locate(options)?;
    let identity = source.identity()?;
    let folder = options.cache.join("kernel").join(source.folder_name());
    let kernel = folder.join("vmlinux");
    let key_file = folder.join("vmlinux.key");
    // A user's own tree can change without a sign: make decides what is up to date there.
    let key = identity
        .as_deref()
        .map(|identity| key(identity, &patches, &fragments))
        .transpose()?;
    let up_to_date = kernel.exists() && key.is_some() && fs::read_to_string(&key_file).ok() == key;
    if !up_to_date {
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let tree = folder.join("source");
        if !source.is_unpacked(&tree, identity.as_deref()) {
            // Files of another source may look older than what was made of these.
            remove_folder(&folder.join("build"))?;
        }
        let tree = source.unpack(&tree, identity.as_deref(), &patches)?;
        compile(&tree, &folder, &fragments, options.jobs())?;
        replace_file(&key_file, key.unwrap_or_default().as_bytes())?;
    }
    Ok(kernel)
}

/// Builds the kernel once more, from nothing and in a folder of another name, and compares it with
/// the one that [`build_kernel`] gives, which may have been built in steps. Takes as long as a
/// first build and about 3 GB, which are freed if the two are equal.
///
/// # Errors
/// Fails if a build fails, or with the first offset at which the two differ.
pub fn verify_kernel_reproducible(options: &Options) -> anyhow::Result<()> {
    let kernel = build_kernel(options)?;
    let _lock = options.lock_cache()?;
    let fragments = read_fragments(options)?;
    let patches = read_patches(options)?;
    let source = Source::locate(options)?;
    let folder = options.cache.join("a-second-build-of-the-kernel");
    remove_folder(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    say("building the guest kernel again from nothing");
    let tree = source.unpack(&folder.join("linux"), Some("second"), &patches)?;
    compile(&tree, &folder, &fragments, options.jobs())?;
    let second = folder.join("vmlinux");
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (one, other) = (read(&kernel)?, read(&second)?);
    if let Some(at) = first_difference(&one, &other) {
        bail!(
            "two builds of the guest kernel differ from byte {at} on: compare {} ({} bytes) and {} ({} bytes)",
            kernel.display(),
            one.len(),
            second.display(),
            other.len()
        );
    }
    say(&format!(
        "two builds are equal: {} bytes, sha256 {}",
        one.len(),
        hex(&Sha256::digest(&one))
    ));
    remove_folder(&folder)
}

fn read_fragments(options: &Options) -> anyhow::Result<Fragments> {
    Ok(Fragments::read(
        &options.workspace.join("guest-image/kernel"),
    )?)
}

fn read_patches(options: &Options) -> anyhow::Result<Patches> {
    Patches::read(&options.workspace.join("guest-image/kernel/patches"))
}

/// A digest of all that decides what bytes come out.
fn key(source: &str, patches: &Patches, fragments: &Fragments) -> anyhow::Result<String> {
    // The options, not the text: a better comment is no reason to compile.
    let options = format!("{:?}", fragments.config.iter().collect::<Vec<_>>());
    let mut digest = Sha256::new();
    for part in [
        &BUILDER.to_string(),
        source,
        &patches.identity(),
        &options,
        &toolchain::versions()?,
    ] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    Ok(hex(&digest.finalize()))
}

/// Leaves a kernel at `folder`/vmlinux, built in `folder`/build, which is kept for the next time.
fn compile(tree: &Path, folder: &Path, fragments: &Fragments, jobs: usize) -> anyhow::Result<()> {
    let build = folder.join("build");
    fs::create_dir_all(&build).with_context(|| format!("cannot create {}", build.display()))?;
    let wanted = build.join("wanted.config");
    replace_file(&wanted, fragments.text.as_bytes())?;

    let mut configure = make(tree, &build);
    configure
        .arg("allnoconfig")
        .env("KCONFIG_ALLCONFIG", &wanted);
    run_logged(
        configure,
        "configuring the guest kernel",
        &folder.join("configure.log"),
        None,
    )?;
    let dot_config = build.join(".config");
    let result = fs::read_to_string(&dot_config)
        .with_context(|| format!("cannot read {}", dot_config.display()))?;
    let result = Config::parse(&result);
    let unmet = fragments.config.unmet_in(&result);
    ensure!(unmet.is_empty(), "{}", explain(&unmet, tree, &result));

    // The percentage means something only if everything is compiled.
    let vmlinux = build.join("vmlinux");
    let steps_file = folder.join("steps");
    let whole = !vmlinux.exists();
    let expected = fs::read_to_string(&steps_file)
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(USUAL_STEPS);
    let mut compile = make(tree, &build);
    compile.arg(format!("-j{jobs}")).arg("vmlinux");
    let title = if whole {
        format!("compiling the guest kernel (several minutes, {jobs} at a time)")
    } else {
        "compiling what changed in the guest kernel".to_owned()
    };
    let steps = run_logged(
        compile,
        &title,
        &folder.join("build.log"),
        whole.then_some(expected),
    )?;
    if whole {
        replace_file(&steps_file, steps.to_string().as_bytes())?;
    }
    finish(&vmlinux, &folder.join("vmlinux"))
}

/// Packs the kernel, makes sure that it is one a guest can start from, and puts it in its place.
fn finish(built: &Path, kernel: &Path) -> anyhow::Result<()> {
    let whole = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    let bytes = padding::leave_out(&whole)?;
    let defects = check::kernel(&bytes)?;
    ensure!(
        defects.is_empty(),
        "the kernel built at {} cannot be used:\n{}",
        built.display(),
        lines(&defects)
    );
    let facts = elf::read(&bytes)?;
    replace_file(kernel, &bytes)?;
    let megabytes = |count: u64| count.div_ceil(100_000) as f64 / 10.0;
    say(&format!(
        "the guest kernel has {:.1} MB, takes {:.1} MB of memory",
        megabytes(bytes.len() as u64),
        megabytes(facts.loaded_in_memory)
    ));
    Ok(())
}

/// `make` for a build of `tree` in the folder `build`, with nothing from the environment that
/// could show in the result.
fn make(tree: &Path, build: &Path) -> Command {
    let mut command = Command::new("nice");
    command.arg("make").arg("-C").arg(tree);
    command.arg(format!("O={}", build.display()));
    command.args(["ARCH=x86_64", "RUSTC=none", "PAHOLE=none"]);
    // Names of files in messages are relative to the tree, wherever it is.
    command.arg(format!(
        "KCFLAGS=-ffile-prefix-map={}=. -ffile-prefix-map={}=.",
        build.display(),
        tree.display()
    ));
    command.env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs(IDENTITY);
    // An empty value keeps a git tree from adding "+" to the version.
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("LOCALVERSION", "")]);
    command
}

/// What to say about options that were not taken, each with what it depends on.
fn explain(unmet: &[Unmet], tree: &Path, result: &Config) -> String {
    let mut text = "this kernel source does not take all of guest-image/kernel:".to_owned();
    let kconfig = KconfigFiles::read(tree);
    for option in unmet {
        text.push_str("\n  ");
        text.push_str(&option.to_string());
        match kconfig.definition(&option.name) {
            None => text.push_str(": no Kconfig file of this source defines it"),
            Some(definition) => {
                let missing = definition.missing_in(result);
                let place = definition.file.display();
                if missing.is_empty() {
                    text.push_str(&format!(": see what selects or hides it in {place}"));
                } else {
                    text.push_str(&format!(
                        ": likely because {} is off ({place})",
                        missing.join(" or ")
                    ));
                }
            }
        }
    }
    text
}

fn lines(items: &[impl ToString]) -> String {
    let lines: Vec<String> = items
        .iter()
        .map(|item| format!("  {}", item.to_string()))
        .collect();
    lines.join("\n")
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let shorter = one.len().min(other.len());
    one.iter()
        .zip(other)
        .position(|(a, b)| a != b)
        .or((one.len() != other.len()).then_some(shorter))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
