//! The outer machine as a QEMU process.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use crate::child;
use crate::tool;

const QEMU: &str = "qemu-system-x86_64";

/// Lines of the console that are kept for an error message.
const CONSOLE_LINES: usize = 60;
/// Bytes of one console line that are kept.
const CONSOLE_LINE: u64 = 400;

/// What can be chosen about the outer machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineOptions {
    /// Processors; `None` for what suits the acceleration.
    pub cpus: Option<u32>,
    /// Memory in MiB. Guests of pods live in it.
    pub memory: u32,
    /// Count instructions: time in the machine advances one nanosecond per instruction, and two
    /// runs of the same thing take exactly the same time.
    pub icount: bool,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            cpus: None,
            memory: 4096,
            icount: false,
        }
    }
}

/// How the outer machine's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceleration {
    /// By this machine's own KVM.
    Kvm,
    /// By emulation; SVM is the nesting that QEMU can emulate.
    Emulation,
}

/// Everything QEMU is told.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Raw images. What the machine writes is its own and ends with it.
    pub(crate) disks: &'a [PathBuf],
    pub(crate) share: Option<&'a Path>,
    pub(crate) options: MachineOptions,
    pub(crate) acceleration: Acceleration,
}

/// A running outer machine. It ends when this value goes, or this process does.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    console: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Machine<'_> {
    /// Starts the machine; the stream is the other end of its port.
    pub(crate) fn start(&self) -> Result<(Running, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().context("making the port's socket")?;
        let mut keep: Vec<OwnedFd> = Vec::new();
        let mut command = Command::new(QEMU);
        command.args(self.processor()?);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-serial", "stdio"]);
        command.arg("-kernel").arg(self.kernel);
        command.arg("-initrd").arg(self.initramfs);
        command.arg("-append").arg(self.kernel_parameters());
        for (index, disk) in self.disks.iter().enumerate() {
            let file = File::options()
                .read(true)
                .write(true)
                .open(disk)
                .with_context(|| format!("opening {}", disk.display()))?;
            let size = file.metadata().context("asking for a disk's size")?.len();
            // QEMU opens what we have opened: the name may already belong to a newer disk.
            // Without `reserve=off`, a private copy of the disk would count against this machine's
            // memory in full.
            let path = child::inherited_path(file.as_raw_fd());
            command.arg("-object").arg(format!(
                "memory-backend-file,id=disk{index},mem-path={path},size={size},share=off,reserve=off"
            ));
            command
                .arg("-device")
                .arg(format!("nvdimm,id=nvdimm{index},memdev=disk{index}"));
            keep.push(file.into());
        }
        // The first virtio device: the guest numbers its port by that.
        command.args(["-device", "virtio-serial-pci,max_ports=2"]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=port,fd={}", theirs.as_raw_fd()));
        command.args(["-device", "virtserialport,chardev=port,name=testbed"]);
        keep.push(theirs.into());
        if let Some(share) = self.share {
            // A comma would end the option; QEMU takes a doubled one for a comma.
            let path = share.display().to_string().replace(',', ",,");
            command.arg("-fsdev").arg(format!(
                "local,id=share,path={path},security_model=none,multidevs=remap"
            ));
            command.args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]);
        }
        Ok((Running::spawn(command, keep)?, ours))
    }

    fn processor(&self) -> Result<Vec<String>> {
        let MachineOptions {
            cpus,
            memory,
            icount,
        } = self.options;
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(ToString::to_string));
        let cpus = match (self.acceleration, cpus) {
            (_, Some(0)) => bail!("--cpus 0: the machine needs at least one processor"),
            (_, Some(cpus)) => cpus,
            (Acceleration::Kvm, None) => {
                std::thread::available_parallelism().map_or(1, |n| n.get().min(4) as u32)
            }
            (Acceleration::Emulation, None) => 1,
        };
        match self.acceleration {
            Acceleration::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
            Acceleration::Emulation => {
                // QEMU before 10 corrupts patched kernel code when two emulated processors run at
                // the same time; one thread that takes turns is safe.
                let turns = icount || (cpus > 1 && qemu_major()? < 10);
                let threads = if turns { "single" } else { "multi" };
                add(&["-accel", &format!("tcg,thread={threads}"), "-cpu", "EPYC"]);
            }
        }
        if icount {
            add(&["-icount", "shift=0,sleep=off", "-seed", "1"]);
            add(&["-rtc", "base=2026-01-01,clock=vm"]);
        }
        add(&["-M", "q35,nvdimm=on", "-smp", &cpus.to_string()]);
        // Disks take address space like memory does: their size, and up to 1 GiB each to align.
        add(&[
            "-m",
            &format!("{memory}M,slots=4,maxmem={}M", memory + 65536),
        ]);
        Ok(arguments)
    }

    fn kernel_parameters(&self) -> String {
        let mut parameters =
            String::from("console=ttyS0 quiet panic=-1 oops=panic tsc=reliable rdinit=/init");
        if self.acceleration == Acceleration::Emulation {
            // An emulated processor speculates about nothing; the mitigations only cost time.
            parameters.push_str(" mitigations=off");
        }
        if self.options.icount {
            parameters.push_str(" nokaslr norandmaps");
        }
        parameters
    }
}

impl Running {
    /// Runs `command`, which inherits `keep`.
    pub(crate) fn spawn(mut command: Command, keep: Vec<OwnedFd>) -> Result<Self> {
        child::tied_to_us(&mut command, keep);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {QEMU}; is it installed and in PATH?"))?;
        let console = Arc::new(Mutex::new(VecDeque::new()));
        let mut streams: Vec<Box<dyn Read + Send>> = Vec::new();
        streams.extend(
            child
                .stdout
                .take()
                .map(|s| Box::new(s) as Box<dyn Read + Send>),
        );
        streams.extend(
            child
                .stderr
                .take()
                .map(|s| Box::new(s) as Box<dyn Read + Send>),
        );
        let kept = Arc::clone(&console);
        let reader = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for stream in streams {
                    scope.spawn(|| keep_last_lines(stream, &kept));
                }
            });
        });
        Ok(Self {
            child,
            console,
            reader: Some(reader),
        })
    }

    /// Ends the machine at once.
    pub(crate) fn stop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends the machine and returns the last lines of its console and of QEMU.
    pub(crate) fn last_words(&mut self) -> String {
        self.stop();
        if let Some(reader) = self.reader.take() {
            // A panic in it would only mean fewer lines.
            let _ = reader.join();
        }
        let lines = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep_last_lines(stream: impl Read, kept: &Mutex<VecDeque<String>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match stream
            .by_ref()
            .take(CONSOLE_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        // QEMU lists the processor features that emulation has not got, on every start.
        if line.is_empty() || line.contains("TCG doesn't support requested feature") {
            continue;
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == CONSOLE_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

/// QEMU's major version.
fn qemu_major() -> Result<u32> {
    let text = tool::output(Command::new(QEMU).arg("--version"))?;
    let text = String::from_utf8_lossy(&text);
    major_of(&text).with_context(|| format!("{QEMU} --version says something unknown: {text}"))
}

fn major_of(text: &str) -> Option<u32> {
    let version = text.split_once("version ")?.1;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
#[path = "qemu_test.rs"]
mod tests;
