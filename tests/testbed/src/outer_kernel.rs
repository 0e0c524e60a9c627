//! The outer machine's kernel: Debian trixie's, for every root, unpacked so that QEMU starts it
//! through its PVH entry (decompression under emulation takes seconds).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use caisson_guest_image::cpio::{Archive, Entry};

use crate::apt::PrivateApt;
use crate::apt_source::Mirror;
use crate::cache::{Cache, Key, remove};
use crate::progress;
use crate::tool;

const SUITE: &str = "trixie";
const PACKAGE: &str = "linux-image-amd64";

/// Raised when this file changes what it makes.
const KERNEL_VERSION: &str = "1";
const INITRAMFS_VERSION: &str = "1";

/// Hardware the outer machine has not got. Leaving it out halves the root's number of files.
const UNUSED: &[&str] = &[
    "drivers/gpu",
    "drivers/hid",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "sound",
];

/// Modules in the initramfs by group; init loads the groups it needs.
const GROUPS: &[(&str, &[&str])] = &[
    // ext4 asks for crc32c by an alias nobody resolves in an initramfs.
    (
        "disk",
        &["crc32c_generic", "crc32c-intel", "nfit", "nd_pmem", "ext4"],
    ),
    ("share", &["9pnet_virtio", "9p"]),
    ("kvm-amd", &["kvm-amd"]),
    ("kvm-intel", &["kvm-intel"]),
    // What every container needs. The rest is loaded on demand from the root.
    ("run", &["overlay", "tun", "veth"]),
];

/// The kernel and its modules in the cache.
#[derive(Debug)]
pub(crate) struct OuterKernel {
    folder: PathBuf,
    key: Key,
}

impl OuterKernel {
    /// Finds or makes it.
    pub(crate) fn prepare(cache: &Cache, mirror: &Mirror) -> Result<Self> {
        let key = Key::of(&[SUITE, PACKAGE, KERNEL_VERSION, &UNUSED.join(" ")]);
        let folder = cache.artefact("outer-kernel", &key, |target| {
            progress::step("fetching the outer machine's kernel", || {
                let work = cache.scratch("outer-kernel")?;
                let apt = PrivateApt::update(mirror, SUITE, &work)?;
                let depends = apt.dependencies(PACKAGE)?;
                let image = depends
                    .iter()
                    .find(|name| name.starts_with("linux-image-"))
                    .with_context(|| format!("{PACKAGE} depends on no kernel: {depends:?}"))?;
                let files = work.join("files");
                apt.unpack(image, &files)?;
                collect(&files, image.trim_start_matches("linux-image-"), target)?;
                remove(&work)
            })
        })?;
        Ok(Self { folder, key })
    }

    /// The uncompressed kernel.
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The folder to put at /usr/lib/modules of a root.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules")
    }

    /// What it was made from.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The initramfs of this kernel with `init`, a static program.
    pub(crate) fn initramfs(&self, cache: &Cache, init: &Path) -> Result<PathBuf> {
        let program = fs::read(init).with_context(|| format!("reading {}", init.display()))?;
        let groups = format!("{GROUPS:?}");
        let key = Key::of(&[
            self.key.as_ref(),
            INITRAMFS_VERSION.as_bytes(),
            groups.as_bytes(),
            &program,
        ]);
        cache.artefact("initramfs", &key, |target| {
            let archive = self.archive(program)?;
            fs::write(target, archive.to_bytes()?)
                .with_context(|| format!("writing {}", target.display()))
        })
    }

    fn archive(&self, init: Vec<u8>) -> Result<Archive> {
        let mut archive = Archive::default();
        for folder in ["dev", "modules", "proc", "root", "sys"] {
            archive.add(folder, Entry::Directory { mode: 0o755 })?;
        }
        let console = Entry::CharacterDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        };
        archive.add("dev/console", console)?;
        let init = Entry::File {
            mode: 0o755,
            content: init,
        };
        archive.add("init", init)?;
        let release = self.release_folder()?;
        let dependencies = fs::read_to_string(release.join("modules.dep"))
            .context("reading modules.dep; has depmod run?")?;
        for (group, modules) in GROUPS {
            let folder = format!("modules/{group}");
            archive.add(&folder, Entry::Directory { mode: 0o755 })?;
            for (index, file) in load_order(&dependencies, modules)?.iter().enumerate() {
                let content = tool::output(Command::new("xz").arg("-dc").arg(release.join(file)))?;
                let name = format!("{folder}/{index:02}-{}", module_name(file));
                archive.add(
                    &name,
                    Entry::File {
                        mode: 0o644,
                        content,
                    },
                )?;
            }
        }
        Ok(archive)
    }

    fn release_folder(&self) -> Result<PathBuf> {
        let modules = self.modules();
        let entry = fs::read_dir(&modules)
            .with_context(|| format!("reading {}", modules.display()))?
            .next()
            .context("there are no kernel modules")?;
        Ok(entry?.path())
    }
}

/// Takes from the unpacked package what is needed.
fn collect(files: &Path, release: &str, target: &Path) -> Result<()> {
    fs::create_dir_all(target.join("lib/modules"))?;
    let compressed = files.join("boot").join(format!("vmlinuz-{release}"));
    let compressed =
        fs::read(&compressed).with_context(|| format!("reading {}", compressed.display()))?;
    decompress(payload(&compressed)?, &target.join("vmlinux"))?;
    let modules = target.join("lib/modules").join(release);
    // Before and after the merge of / and /usr.
    let from = ["usr/lib/modules", "lib/modules"]
        .iter()
        .map(|place| files.join(place).join(release))
        .find(|place| place.is_dir())
        .context("the kernel package has no modules")?;
    fs::rename(&from, &modules).with_context(|| format!("moving {}", from.display()))?;
    for unused in UNUSED {
        remove(&modules.join("kernel").join(unused))?;
    }
    tool::run(Command::new("depmod").arg("-b").arg(target).arg(release))
}

/// The compressed kernel inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects,
/// payload_offset and payload_length, boot protocol 2.08 and later).
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let find = || {
        let sectors = match usize::from(*image.get(0x1f1)?) {
            0 => 4,
            sectors => sectors,
        };
        let start = (sectors + 1) * 512 + word(0x248)?;
        // The last four bytes are the kernel's own note of the uncompressed size.
        image.get(start..start + word(0x24c)?.checked_sub(4)?)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("the kernel package's vmlinuz is not a bzImage");
    }
    find().context("the kernel package's vmlinuz is cut short")
}

fn decompress(payload: &[u8], target: &Path) -> Result<()> {
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', ..] => "xz",
        _ => bail!("the kernel is compressed in a way other than zstd or xz"),
    };
    let out = fs::File::create(target).with_context(|| format!("creating {}", target.display()))?;
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .with_context(|| format!("running {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(payload)
            .with_context(|| format!("writing to {program}"))?;
    }
    if !child.wait()?.success() {
        bail!("{program} cannot decompress the kernel");
    }
    Ok(())
}

/// The files of `modules` and of all they depend on, in an order in which they can be loaded.
/// `dependencies` is modules.dep: `file: dependency…`, each after those it depends on in turn.
fn load_order(dependencies: &str, modules: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for module in modules {
        let wanted = module.replace('-', "_");
        let (file, needs) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| module_name(file).replace('-', "_").trim_end_matches(".ko") == wanted)
            .with_context(|| format!("the kernel has no module {module}"))?;
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|known| known == file) {
                order.push(file.to_owned());
            }
        }
    }
    Ok(order)
}

/// `kernel/fs/ext4/ext4.ko.xz` → `ext4.ko`
fn module_name(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.trim_end_matches(".xz")
}

#[cfg(test)]
#[path = "outer_kernel_test.rs"]
mod tests;
