//! Where work is done: a container that lives as long as the benchmark, or the host, each with a
//! network namespace, a volume and a disk of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use caisson_e2e::{Ctr, Finished, NetworkNamespace, run};

use crate::contender::Contender;
use crate::peer;
use crate::table::HOST;

/// The program that works, beside this one.
pub(crate) const PROGRAM: &str = "caisson-measured-work";
/// Where volumes and disks are made.
const PLACE: &str = "/var/tmp/measured";
const DISK: u64 = 256 << 20;

/// A place to work.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) who: &'static str,
    contender: Option<&'static Contender>,
    namespace: NetworkNamespace,
    address: String,
    folder: PathBuf,
    /// A loop device.
    disk: Option<String>,
}

impl Bench {
    /// Folders of the container: of its root, of a volume, and where the block device is mounted.
    pub(crate) const ROOT: &str = "/work";
    pub(crate) const VOLUME: &str = "/volume";
    pub(crate) const BLOCK: &str = "/block";

    /// The host itself, in a network namespace that is connected as the others are.
    ///
    /// # Errors
    /// What the program said that could not be run.
    pub(crate) fn host() -> Result<Self, String> {
        let bench = Self::made(HOST, None, 0);
        for folder in [Self::ROOT, Self::VOLUME] {
            fs::create_dir_all(bench.folder(folder)).expect("there is room for a directory");
        }
        bench.with_disk_mounted()
    }

    /// A container of a contender, which is the `number`th.
    ///
    /// # Errors
    /// What `ctr` said when it does not start.
    pub(crate) fn of(contender: &'static Contender, number: usize) -> Result<Self, String> {
        let bench = Self::made(contender.name, Some(contender), number);
        let program = program();
        let programs = program.parent().unwrap_or(Path::new("/")).display();
        let mounts = [
            format!("type=bind,src={programs},dst=/measured,options=rbind:ro"),
            format!(
                "type=bind,src={},dst={},options=rbind:rw",
                bench.folder.join("volume").display(),
                Self::VOLUME
            ),
        ];
        let network = bench.namespace.of_ctr();
        let [programs, volume] = &mounts;
        let mut options = vec![
            "--mount",
            programs,
            "--mount",
            volume,
            "--with-ns",
            &network,
        ];
        if let Some(disk) = &bench.disk {
            options.extend(["--device", disk, "--cap-add", "CAP_SYS_ADMIN"]);
        }
        succeeded(&contender.start_as(&bench.id(), &options))?;
        // A tmpfs, so that no start of it reads a file system that is measured.
        let copied = format!("mkdir {} && cp /measured/{PROGRAM} /run/", Self::ROOT);
        succeeded(&bench.exec(&["sh", "-c", &copied]))?;
        bench.with_disk_mounted()
    }

    /// Runs the program.
    pub(crate) fn work(&self, arguments: &[&str]) -> Finished {
        match self.contender {
            Some(_) => {
                let program = format!("/run/{PROGRAM}");
                self.exec(&[&[program.as_str()], arguments].concat())
            }
            None => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &self.netns()]);
                command.arg(program()).args(arguments);
                let output = command.output().expect("iproute2 is installed");
                Finished {
                    code: output.status.code().unwrap_or(-1),
                    stdout: output.stdout,
                    stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                }
            }
        }
    }

    /// Where a folder of the container is here.
    pub(crate) fn folder(&self, folder: &str) -> String {
        match self.contender {
            Some(_) => folder.to_owned(),
            None => format!("{}{folder}", self.folder.display()),
        }
    }

    /// Where the other end of the network answers.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether it has a disk.
    pub(crate) fn has_block(&self) -> bool {
        self.disk.is_some()
    }

    fn made(who: &'static str, contender: Option<&'static Contender>, number: usize) -> Self {
        let folder = Path::new(PLACE).join(who);
        fs::create_dir_all(folder.join("volume")).expect("there is room for directories");
        let namespace = NetworkNamespace::new(&netns_of(who));
        let peer = format!("measured{number}");
        namespace.connect("eth0", &peer);
        let _ = namespace.run(&format!("ip addr add 10.90.{number}.2/24 dev eth0"));
        let _ = run(&format!("ip addr add 10.90.{number}.1/24 dev {peer}"));
        let disk = contender.is_none_or(|contender| contender.has_devices);
        let disk = disk.then(|| {
            let image = folder.join("disk");
            let made = File::create(&image).and_then(|file| file.set_len(DISK));
            made.expect("there is room for a disk");
            let image = image.display();
            // Loop devices are a module of the testbed's kernel.
            let _ = run("modprobe loop");
            let _ = run(&format!("mkfs.ext4 -q -F {image}"));
            run(&format!("losetup -f --show {image}")).trim().to_owned()
        });
        Self {
            who,
            contender,
            namespace,
            address: format!("10.90.{number}.1:{}", peer::PORT),
            folder,
            disk,
        }
    }

    fn with_disk_mounted(self) -> Result<Self, String> {
        if let Some(disk) = &self.disk {
            let folder = self.folder(Self::BLOCK);
            match self.contender {
                Some(_) => succeeded(&self.work(&["", "", "mount", disk, &folder]))?,
                // `ip netns exec` has mounts of its own.
                None => {
                    fs::create_dir_all(&folder).expect("there is room for a directory");
                    let _ = run(&format!("mount {disk} {folder}"));
                }
            }
        }
        Ok(self)
    }

    fn exec(&self, words: &[&str]) -> Finished {
        let id = self.id();
        let exec = [&["task", "exec", "--exec-id", "work", &id], words].concat();
        Ctr::new(&exec).finish()
    }

    fn id(&self) -> String {
        format!("work-{}", self.who)
    }

    fn netns(&self) -> String {
        netns_of(self.who)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.contender.is_some() {
            let _ = Ctr::new(&["task", "rm", "--force", &self.id()]).finish();
            let _ = Ctr::new(&["container", "rm", &self.id()]).finish();
        } else {
            let _ = Command::new("umount")
                .arg(self.folder(Self::BLOCK))
                .status();
        }
        if let Some(disk) = &self.disk {
            let _ = Command::new("losetup").args(["-d", disk]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The program that works.
fn program() -> PathBuf {
    let here = std::env::current_exe().expect("a program knows its own file");
    here.with_file_name(PROGRAM)
}

fn netns_of(who: &str) -> String {
    format!("measured-{}", who.to_lowercase())
}

fn succeeded(finished: &Finished) -> Result<(), String> {
    match finished.code {
        0 => Ok(()),
        _ => Err(finished.stderr.trim().to_owned()),
    }
}
