//! Block devices of the host in a pod, as a kubelet passes `volumeDevices` on.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use caisson_e2e::{CleanMachine, Cri, CriContainer, PodConfig, PodSandbox, children_of, parent_of};
use rustix::fs::OFlags;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// How long a device that nobody uses any more may be open.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// A file that is a block device of the host.
struct LoopDevice {
    file: NamedTempFile,
    path: String,
    is_detached: bool,
}

impl LoopDevice {
    /// One of so many MiB with logical blocks of so many bytes.
    #[track_caller]
    fn new(mib: u64, block: u32) -> Self {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(mib << 20).unwrap();
        let block = block.to_string();
        let name = file.path().to_str().unwrap();
        let path = output("losetup", &["-f", "--show", "-b", &block, name]);
        Self {
            file,
            path: path.trim().to_owned(),
            is_detached: false,
        }
    }

    /// Its number as the kernel writes it.
    fn number(&self) -> u64 {
        fs::metadata(&self.path).unwrap().rdev()
    }

    /// What it holds from some byte on.
    fn read(&self, at: usize, count: usize) -> Vec<u8> {
        let mut data = vec![0; count];
        self.file
            .as_file()
            .read_exact_at(&mut data, at as u64)
            .unwrap();
        data
    }

    /// Takes the file away, which the kernel does when nobody has the device open any more. The end
    /// of an io_uring, which has it open too, goes on in the background for a moment.
    #[track_caller]
    fn detach(&mut self) {
        let _ = output("losetup", &["-d", &self.path]);
        self.is_detached = true;
        let name = self.path.trim_start_matches("/dev/");
        let holds = format!("/sys/block/{name}/loop/backing_file");
        let deadline = Instant::now() + PATIENCE;
        while fs::exists(&holds).unwrap() {
            assert!(Instant::now() < deadline, "{name} is open");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.is_detached {
            let _ = Command::new("losetup").args(["-d", &self.path]).status();
        }
    }
}

#[track_caller]
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A device in the ContainerConfig of CRI.
fn device(container: &str, host: &LoopDevice, permissions: &str) -> Value {
    json!({"container_path": container, "host_path": host.path, "permissions": permissions})
}

/// What the kernel of a container says of a disk.
fn attribute(container: &CriContainer, path: &str, attribute: &str) -> String {
    let number = number(container, path);
    container.shell(&format!("cat /sys/dev/block/{number}/{attribute}"))
}

/// The number of a device in a container.
fn number(container: &CriContainer, path: &str) -> String {
    let script = format!("printf %d:%d 0x$(stat -c %t {path}) 0x$(stat -c %T {path})");
    container.shell(&script)
}

/// The flags with which the VMM of a pod has a device open (fdinfo of proc(5)), for each descriptor.
fn opened(pod: &PodSandbox, device: &LoopDevice) -> Vec<OFlags> {
    let of_pod = children_of(parent_of(pod.host_pid()));
    let is_vmm = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "caisson-vmm\n")
    };
    let vmm = of_pod.into_iter().find(is_vmm).unwrap();
    let descriptors = fs::read_dir(format!("/proc/{vmm}/fd")).unwrap();
    let is_device = |path: &std::path::PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.file_type().is_block_device() && file.rdev() == device.number())
    };
    let paths = descriptors.map(|entry| entry.unwrap().path());
    let numbers = paths
        .filter(is_device)
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let flags = numbers.map(|number| {
        let info = fs::read_to_string(format!("/proc/{vmm}/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        OFlags::from_bits_retain(u32::from_str_radix(flags.unwrap().trim(), 8).unwrap())
    });
    flags.collect()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn block_devices_of_the_host_are_disks_of_the_pod() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let _ = output("modprobe", &["loop"]);
    let mut data = LoopDevice::new(32, 512);
    let mut fixed = LoopDevice::new(8, 4096);
    fixed
        .file
        .as_file()
        .write_all_at(b"of the host", 0)
        .unwrap();
    fixed.file.as_file().sync_all().unwrap();

    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod").with(privileged.clone()));
    let sleeping = ["sleep", "1000"];
    let other = pod.start("other", &sleeping);
    let devices = |list: Value| json!({"devices": list});

    // Both come while the pod runs.
    let both = devices(json!([
        device("/dev/xvda", &data, "rwm"),
        device("/dev/deep/fixed", &fixed, "mr"),
    ]));
    let one = pod.start_with("one", &sleeping, both);
    let node = |container: &CriContainer, path: &str| {
        container.shell(&format!("stat -c '%F %a %u %g' {path}"))
    };
    let on_host = output("stat", &["-c", "%F %a %u %g", &data.path]);
    assert_eq!(node(&one, "/dev/xvda"), on_host.trim());
    for (path, sectors, block, read_only) in [
        ("/dev/xvda", 32 << 11, "512", "0"),
        ("/dev/deep/fixed", 8 << 11, "4096", "1"),
    ] {
        assert_eq!(attribute(&one, path, "size"), sectors.to_string());
        let of_queue = attribute(&one, path, "queue/logical_block_size");
        assert_eq!(of_queue, block, "{path}");
        assert_eq!(attribute(&one, path, "ro"), read_only, "{path}");
    }
    // The VMM could not write to it.
    let [flags] = opened(&pod, &fixed)[..] else {
        panic!("{:?}", opened(&pod, &fixed));
    };
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
    assert_eq!(
        one.shell("head -c 11 /dev/deep/fixed"),
        "of the host",
        "what the host has written"
    );
    let refused = one.exec(&["sh", "-c", "echo x >/dev/deep/fixed"]);
    assert!(refused.stderr.contains("not permitted"), "{refused:?}");

    // What is written there is here, byte for byte.
    let _ = one.shell(
        "seq 1 1000000 | head -c 4194304 >/tmp/text && \
         dd if=/tmp/text of=/dev/xvda bs=1M seek=3 conv=fsync,notrunc 2>/dev/null",
    );
    let text: String = (1..=1_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(data.read(3 * MIB, 4 * MIB) == text.as_bytes()[..4 * MIB]);
    assert_eq!(data.read(0, MIB), vec![0; MIB]);
    // A file system of the guest, whole for the host.
    let _ = one.shell("mke2fs -F /dev/xvda");
    let _ = output("e2fsck", &["-f", "-n", &data.path]);

    // The same device is the same disk, with what this container may do with it.
    let reader = devices(json!([
        device("/dev/sdx", &data, "r"),
        device("/data/disk", &data, "r")
    ]));
    let two = pod.start_with("two", &sleeping, reader);
    for path in ["/dev/sdx", "/data/disk"] {
        assert_eq!(number(&one, "/dev/xvda"), number(&two, path));
    }
    assert_eq!(node(&two, "/data/disk"), on_host.trim());
    let _ = two.shell("cmp -n 4096 /dev/sdx /data/disk");
    let refused = two.exec(&["sh", "-c", "echo x >/dev/sdx"]);
    assert!(refused.stderr.contains("not permitted"), "{refused:?}");
    // One that has no device may make a node and not open it.
    let numbers = number(&one, "/dev/xvda").replace(':', " ");
    let steal = format!("mknod /dev/x b {numbers} && head -c 1 /dev/x");
    let stolen = other.exec(&["sh", "-c", &steal]);
    assert!(stolen.stderr.contains("not permitted"), "{stolen:?}");

    // A privileged one has the devices of the guest, and none of the host for being privileged.
    let all = pod.start_with("all", &sleeping, privileged);
    let _ = all.shell(&format!("test -b /dev/vda && ! test -e {}", data.path));

    // With its last container a disk is closed.
    assert_eq!(one.stop(0).code, 0);
    assert_eq!(one.remove().code, 0);
    fixed.detach();
    assert_eq!(opened(&pod, &data).len(), 1);
    let again = pod.start_with(
        "one",
        &sleeping,
        json!({"metadata": {"attempt": 1}, "devices": [device("/dev/xvda", &data, "rwm")]}),
    );
    assert_eq!(number(&again, "/dev/xvda"), number(&two, "/dev/sdx"));

    // What is not there is named.
    let gone = CriContainer::refused(
        &pod,
        "gone",
        &sleeping,
        devices(json!([device("/dev/xvdb", &fixed, "rwm")])),
    );
    assert!(gone.contains("for /dev/xvdb: it holds nothing"), "{gone}");
    assert_eq!(other.shell("echo alive"), "alive");
    drop(pod);
    data.detach();
}
