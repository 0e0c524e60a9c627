use std::fs;
use std::io::ErrorKind::{NotFound, ReadOnlyFilesystem};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::super::StateDir;
use super::super::private_mounts::in_private_mounts;
use super::super::tree::{self, DetachedTree};
use super::Volume;
use crate::spec::BindMount;

/// A sandbox's directories, and a volume with the directories `part` and `below` in it.
struct Host {
    state: StateDir,
    temporary: TempDir,
}

impl Host {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDir::create(&temporary.path().join("run/default/pod")).unwrap();
        let host = Self { state, temporary };
        for name in ["part", "below"] {
            fs::create_dir_all(host.volume().join(name)).unwrap();
        }
        fs::write(host.volume().join("file"), "text").unwrap();
        host
    }

    fn volume(&self) -> PathBuf {
        self.temporary.path().join("volume")
    }

    fn mount(&self, bind: &BindMount) -> Arc<Volume> {
        self.state.volumes().mount(bind).unwrap()
    }

    /// Where the guest sees it, by the host's path.
    fn guest(&self, volume: &Volume) -> PathBuf {
        let path = volume.in_guest();
        let below = path.strip_prefix("/run/caisson/shared").unwrap();
        let export = self.state.export().as_raw_fd();
        Path::new("/proc/self/fd")
            .join(export.to_string())
            .join(below)
    }

    fn bind(&self) -> BindMount {
        BindMount {
            mount: 0,
            source: self.volume(),
            destination: "/data".into(),
            recursive: true,
            read_only: false,
            follow_host: false,
        }
    }
}

#[test]
fn what_is_the_same_on_the_host_is_mounted_once_and_as_long_as_it_is_used() {
    in_private_mounts(|| {
        let host = Host::new();
        let one = host.mount(&host.bind());
        let other_path = BindMount {
            source: host.volume().join("part/.."),
            destination: "/elsewhere".into(),
            ..host.bind()
        };
        let two = host.mount(&other_path);
        assert!(Arc::ptr_eq(&one, &two));
        drop(one);
        let file = host.guest(&two).join("file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        drop(two);
        assert_eq!(fs::metadata(&file).unwrap_err().kind(), NotFound);
        assert!(host.volume().join("file").exists());
    });
}

#[test]
fn what_was_unmounted_comes_back_under_another_number() {
    in_private_mounts(|| {
        let host = Host::new();
        let first = host.mount(&host.bind()).in_guest();
        let second = host.mount(&host.bind()).in_guest();
        assert_ne!(first, second);
    });
}

#[test]
fn a_part_of_a_volume_a_file_and_other_options_are_volumes_of_their_own() {
    in_private_mounts(|| {
        let host = Host::new();
        let at = |name: &str| BindMount {
            source: host.volume().join(name),
            ..host.bind()
        };
        let follows = BindMount {
            follow_host: true,
            ..host.bind()
        };
        let binds = [host.bind(), at("part"), at("file"), follows];
        let volumes: Vec<_> = binds.iter().map(|bind| host.mount(bind)).collect();
        let again: Vec<_> = binds.iter().map(|bind| host.mount(bind)).collect();
        for (index, volume) in volumes.iter().enumerate() {
            for (other, again) in again.iter().enumerate() {
                assert_eq!(Arc::ptr_eq(volume, again), index == other);
            }
        }
    });
}

#[test]
fn the_same_directory_behind_another_mount_is_the_same_volume() {
    // As the kubelet mounts a subPath for each container.
    in_private_mounts(|| {
        let host = Host::new();
        let parent = fs::File::open(host.temporary.path()).unwrap();
        let mut volumes = Vec::new();
        for name in ["0", "1"] {
            let place = host.temporary.path().join(name);
            fs::create_dir(&place).unwrap();
            let tree = DetachedTree::clone_of(&host.volume().join("part"), false).unwrap();
            tree.attach(parent.as_fd(), name).unwrap();
            volumes.push(host.mount(&BindMount {
                source: place,
                ..host.bind()
            }));
        }
        assert!(Arc::ptr_eq(&volumes[0], &volumes[1]));
        for name in ["0", "1"] {
            tree::unmount(&host.temporary.path().join(name)).unwrap();
        }
    });
}

#[test]
fn mounts_below_make_another_volume_of_the_same_directory() {
    in_private_mounts(|| {
        let host = Host::new();
        let before = host.mount(&host.bind());
        let parent = fs::File::open(host.volume()).unwrap();
        let tmpfs = DetachedTree::tmpfs(c"64k").unwrap();
        tmpfs.attach(parent.as_fd(), "below").unwrap();
        fs::write(host.volume().join("below/deep"), "").unwrap();
        let after = host.mount(&host.bind());
        assert!(!Arc::ptr_eq(&before, &after));
        assert!(!host.guest(&before).join("below/deep").exists());
        assert!(host.guest(&after).join("below/deep").exists());
        assert!(Arc::ptr_eq(&after, &host.mount(&host.bind())));
        // What is below does not matter to who does not ask for it.
        let flat = BindMount {
            recursive: false,
            ..host.bind()
        };
        assert!(Arc::ptr_eq(&before, &host.mount(&flat)));
        tree::unmount(&host.volume().join("below")).unwrap();
    });
}

#[test]
fn read_only_is_the_hosts_until_a_container_has_the_volume_writable() {
    in_private_mounts(|| {
        let host = Host::new();
        let read_only = BindMount {
            read_only: true,
            ..host.bind()
        };
        let first = host.mount(&read_only);
        assert!(first.read_only());
        let refused = fs::write(host.guest(&first).join("new"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);

        let writable = host.mount(&host.bind());
        assert!(!writable.read_only());
        fs::write(host.guest(&writable).join("new"), "").unwrap();
        let refused = fs::write(host.guest(&first).join("other"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);
        assert!(Arc::ptr_eq(&writable, &host.mount(&read_only)));

        drop(writable);
        assert!(host.mount(&read_only).read_only());
    });
}

#[test]
fn a_volume_that_cannot_be_mounted_leaves_nothing() {
    in_private_mounts(|| {
        let host = Host::new();
        let absent = BindMount {
            source: host.volume().join("absent"),
            ..host.bind()
        };
        let error = host.state.volumes().mount(&absent).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
        let shared = host.state.path().join("shared/.volumes");
        assert_eq!(fs::read_dir(shared).unwrap().count(), 0);
    });
}

#[test]
fn a_read_only_mount_of_the_host_is_not_taken_for_the_writable_one() {
    in_private_mounts(|| {
        let host = Host::new();
        let parent = fs::File::open(host.temporary.path()).unwrap();
        let place = host.temporary.path().join("place");
        fs::create_dir(&place).unwrap();
        let tree = DetachedTree::clone_of(&host.volume(), false).unwrap();
        let change = tree::Attributes {
            set: rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..tree::Attributes::NONE
        };
        tree.change(change, false).unwrap();
        tree.attach(parent.as_fd(), "place").unwrap();
        let writable = host.mount(&host.bind());
        let through = host.mount(&BindMount {
            source: place.clone(),
            ..host.bind()
        });
        assert_eq!(
            fs::metadata(host.volume()).unwrap().ino(),
            fs::metadata(&place).unwrap().ino()
        );
        assert!(!Arc::ptr_eq(&writable, &through));
        let refused = fs::write(host.guest(&through).join("new"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);
        tree::unmount(&place).unwrap();
    });
}
