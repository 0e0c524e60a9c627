use std::fs;
use std::io::ErrorKind::{NotFound, ReadOnlyFilesystem};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::StateDir;
use super::super::private_mounts::in_private_mounts;
use super::super::tree::DetachedTree;
use super::{ContainerDir, RootSource};
use crate::spec::BindMount;
use crate::{ErrorKind, RootMount, SandboxError};

/// A sandbox's directories, and a place for images and volumes.
struct Host {
    /// Before the directory it is in, so that it goes first.
    state: StateDir,
    temporary: TempDir,
}

impl Host {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDir::create(&temporary.path().join("run/default/pod")).unwrap();
        Self { state, temporary }
    }

    /// Makes a directory with a file that holds the directory's name.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.temporary.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), name).unwrap();
        path
    }

    /// What the guest would see.
    fn guest(&self, path: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{path}",
            self.state.export().as_raw_fd()
        ))
    }

    fn prepare(
        &self,
        rootfs: &[RootMount],
        binds: &[BindMount],
    ) -> Result<ContainerDir, SandboxError> {
        ContainerDir::prepare(&self.state, "web", RootSource::Mounts(rootfs), binds)
    }

    fn root(&self) -> RootMount {
        bind_root(&self.directory("image"), &["rbind"])
    }

    fn is_empty(&self) -> bool {
        let names = |path: &str| {
            let entries = fs::read_dir(self.guest(path)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name());
            names.collect::<Vec<_>>()
        };
        names("") == [".volumes"]
            && names(".volumes").is_empty()
            && fs::read_dir(self.state.path().join("staging"))
                .unwrap()
                .count()
                == 0
    }
}

fn bind_root(source: &Path, options: &[&str]) -> RootMount {
    RootMount {
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

fn overlay(options: Vec<String>) -> RootMount {
    RootMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options,
    }
}

fn bind(source: PathBuf) -> BindMount {
    BindMount {
        mount: 0,
        source,
        destination: "/data".into(),
        recursive: false,
        read_only: false,
        follow_host: false,
    }
}

#[test]
fn a_bind_mounted_root_is_seen_and_undone() {
    in_private_mounts(|| {
        let host = Host::new();
        let container = host.prepare(&[host.root()], &[]).unwrap();
        let file = host.guest("web/rootfs/file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "image");
        // Whoever has the directory may change it.
        assert!(!host.guest("web/private").exists());
        fs::write(host.guest("web/rootfs/new"), "").unwrap();
        drop(container);
        assert!(host.is_empty());
        assert!(host.temporary.path().join("image/new").exists());
    });
}

#[test]
fn a_read_only_root_cannot_be_written() {
    in_private_mounts(|| {
        let host = Host::new();
        let image = host.directory("image");
        let container = host
            .prepare(&[bind_root(&image, &["rbind", "ro"])], &[])
            .unwrap();
        let refused = fs::write(host.guest("web/rootfs/new"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);
        drop(container);
    });
}

#[test]
fn an_overlay_root_keeps_its_layers_unchanged() {
    in_private_mounts(|| {
        let host = Host::new();
        let (low, top) = (host.directory("layers/1"), host.directory("layers/2"));
        fs::write(low.join("low"), "").unwrap();
        // overlayfs does not take its own kind as an upper layer; tests may run on one.
        let writable = host.temporary.path().join("writable");
        fs::create_dir(&writable).unwrap();
        let parent = fs::File::open(host.temporary.path()).unwrap();
        let tmpfs = DetachedTree::tmpfs(c"1m").unwrap();
        tmpfs
            .attach(std::os::fd::AsFd::as_fd(&parent), "writable")
            .unwrap();
        for name in ["upper", "work"] {
            fs::create_dir(writable.join(name)).unwrap();
        }
        let container = host
            .prepare(
                &[overlay(vec![
                    "index=off".into(),
                    format!("workdir={}/work", writable.display()),
                    format!("upperdir={}/upper", writable.display()),
                    format!("lowerdir={}:{}", top.display(), low.display()),
                ])],
                &[],
            )
            .unwrap();
        // Only this container changes it.
        assert!(host.guest("web/private").exists());
        assert!(host.guest("web/rootfs/low").exists());
        assert_eq!(
            fs::read_to_string(host.guest("web/rootfs/file")).unwrap(),
            "layers/2"
        );
        fs::write(host.guest("web/rootfs/file"), "changed").unwrap();
        assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "layers/2");
        assert_eq!(
            fs::read_to_string(writable.join("upper/file")).unwrap(),
            "changed"
        );
        drop(container);
        assert!(host.is_empty());
        super::super::tree::unmount(&writable).unwrap();
    });
}

#[test]
fn mounts_that_another_names_have_places_of_their_own() {
    in_private_mounts(|| {
        let host = Host::new();
        let (low, top) = (host.directory("low"), host.directory("top"));
        fs::write(low.join("only-low"), "").unwrap();
        let layers = |lower: &str| {
            let make = host.temporary.path().join("made");
            vec![
                bind_root(&top, &["ro"]),
                bind_root(&low, &["ro"]),
                RootMount {
                    kind: "format/mkdir/overlay".into(),
                    ..overlay(vec![
                        format!("X-containerd.mkdir.path={}:0750", make.display()),
                        format!("lowerdir={lower}:{}", make.display()),
                    ])
                },
            ]
        };
        let container = host.prepare(&layers("{{ overlay 0 1 }}"), &[]).unwrap();
        let file = |name: &str| fs::read_to_string(host.guest("web/rootfs").join(name));
        assert_eq!(file("file").unwrap(), "top");
        assert_eq!(file("only-low").unwrap(), "");
        let made = fs::metadata(host.temporary.path().join("made")).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&made.permissions()) & 0o777,
            0o750
        );
        drop(container);
        assert!(host.is_empty());
        for lower in ["{{ mount 2 }}", "{{ mount 0 }}/file", "{{ target 0 }}"] {
            let error = host.prepare(&layers(lower), &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(host.is_empty());
        }
        let shown = RootMount {
            kind: "format/bind".into(),
            ..bind_root(Path::new("{{ mount 0 }}"), &["rbind"])
        };
        let container = host.prepare(&[bind_root(&low, &[]), shown], &[]).unwrap();
        assert_eq!(file("file").unwrap(), "low");
        drop(container);
        assert!(host.is_empty());
    });
}

#[test]
fn an_overlay_may_have_more_layers_than_fit_a_page() {
    in_private_mounts(|| {
        let host = Host::new();
        let long = "snapshots-of-a-snapshotter-with-a-long-name/".repeat(2);
        let layers: Vec<String> = (0..60)
            .map(|n| {
                let layer = host.directory(&format!("{long}{n}"));
                fs::write(layer.join(format!("from-{n}")), "").unwrap();
                layer.to_str().unwrap().to_owned()
            })
            .collect();
        let options = format!("lowerdir={}", layers.join(":"));
        assert!(options.len() > 4096);
        let before = std::env::current_dir().unwrap();
        let container = host.prepare(&[overlay(vec![options])], &[]).unwrap();
        assert_eq!(std::env::current_dir().unwrap(), before);
        for n in 0..60 {
            assert!(host.guest(&format!("web/rootfs/from-{n}")).exists(), "{n}");
        }
        drop(container);
    });
}

#[test]
fn several_mounts_make_one_root_and_stay_inside_it() {
    in_private_mounts(|| {
        let host = Host::new();
        let image = host.directory("image");
        fs::create_dir_all(image.join("usr/share")).unwrap();
        // A link of the image points out of it; the mount must not follow it out.
        fs::create_dir(host.temporary.path().join("outside")).unwrap();
        symlink(host.temporary.path().join("outside"), image.join("link")).unwrap();
        let more = host.directory("more");
        let at = |target: &str| RootMount {
            target: target.into(),
            ..bind_root(&more, &["rbind"])
        };
        let container = host
            .prepare(&[bind_root(&image, &["rbind"]), at("/usr/share")], &[])
            .unwrap();
        assert_eq!(
            fs::read_to_string(host.guest("web/rootfs/usr/share/file")).unwrap(),
            "more"
        );
        drop(container);
        assert!(host.is_empty());

        let error = host
            .prepare(&[bind_root(&image, &["rbind"]), at("link")], &[])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(host.is_empty());
    });
}

#[test]
fn a_root_that_is_already_mounted_is_taken_from_there() {
    in_private_mounts(|| {
        let host = Host::new();
        let merged = host.directory("merged");
        let container =
            ContainerDir::prepare(&host.state, "web", RootSource::At(&merged), &[]).unwrap();
        assert_eq!(
            fs::read_to_string(host.guest("web/rootfs/file")).unwrap(),
            "merged"
        );
        drop(container);
        for (path, word) in [
            (host.temporary.path().join("absent"), "absent"),
            (merged.join("file"), "Not a directory"),
        ] {
            let error =
                ContainerDir::prepare(&host.state, "web", RootSource::At(&path), &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(
                error
                    .to_string()
                    .to_lowercase()
                    .contains(&word.to_lowercase()),
                "{error}"
            );
            assert!(host.is_empty());
        }
    });
}

#[test]
fn bind_mounts_are_directories_and_single_files() {
    in_private_mounts(|| {
        let host = Host::new();
        let volume = host.directory("volume");
        fs::write(volume.join("secret"), "s").unwrap();
        let container = host
            .prepare(
                &[host.root()],
                &[
                    BindMount {
                        read_only: true,
                        ..bind(volume.clone())
                    },
                    bind(volume.clone()),
                    BindMount {
                        read_only: true,
                        ..bind(volume.join("secret"))
                    },
                    bind(volume.join("secret")),
                ],
            )
            .unwrap();
        fs::write(host.guest(".volumes/1/new"), "n").unwrap();
        assert_eq!(
            fs::read_to_string(host.guest(".volumes/0/new")).unwrap(),
            "n"
        );
        let refused = fs::write(host.guest(".volumes/0/other"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);
        fs::write(host.guest(".volumes/3"), "changed").unwrap();
        assert_eq!(
            fs::read_to_string(volume.join("secret")).unwrap(),
            "changed"
        );
        let refused = fs::write(host.guest(".volumes/2"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);
        drop(container);
        assert!(host.is_empty());
        assert!(volume.join("new").exists());
    });
}

#[test]
fn mounts_below_a_source_are_seen_only_with_rbind_and_are_read_only_too() {
    in_private_mounts(|| {
        let host = Host::new();
        let volume = host.directory("volume");
        fs::create_dir(volume.join("below")).unwrap();
        let tmpfs = DetachedTree::tmpfs(c"64k").unwrap();
        let parent = fs::File::open(&volume).unwrap();
        tmpfs
            .attach(std::os::fd::AsFd::as_fd(&parent), "below")
            .unwrap();
        fs::write(volume.join("below/deep"), "").unwrap();
        let container = host
            .prepare(
                &[host.root()],
                &[
                    bind(volume.clone()),
                    BindMount {
                        recursive: true,
                        read_only: true,
                        ..bind(volume.clone())
                    },
                ],
            )
            .unwrap();
        assert!(!host.guest(".volumes/0/below/deep").exists());
        assert!(host.guest(".volumes/1/below/deep").exists());
        let refused = fs::write(host.guest(".volumes/1/below/new"), "").unwrap_err();
        assert_eq!(refused.kind(), ReadOnlyFilesystem);
        drop(container);
        super::super::tree::unmount(&volume.join("below")).unwrap();
    });
}

#[test]
fn what_cannot_be_shared_is_named_with_source_and_destination() {
    in_private_mounts(|| {
        let host = Host::new();
        let place = host.directory("place");
        let _listener = UnixListener::bind(place.join("socket")).unwrap();
        let fifo = place.join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for (source, kind, word) in [
            (
                place.join("absent"),
                ErrorKind::InvalidArgument,
                "No such file",
            ),
            (
                place.join("socket"),
                ErrorKind::Unimplemented,
                "unix socket",
            ),
            (fifo, ErrorKind::Unimplemented, "named pipe"),
            (
                "/dev/null".into(),
                ErrorKind::Unimplemented,
                "character device",
            ),
        ] {
            let error = host
                .prepare(&[host.root()], &[bind(source.clone())])
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let message = error.to_string();
            for part in [source.to_str().unwrap(), "/data", word] {
                assert!(message.contains(part), "{part} in {message}");
            }
            assert!(host.is_empty());
        }
    });
}

#[test]
fn a_root_that_is_not_possible_is_refused_and_leaves_nothing() {
    in_private_mounts(|| {
        let host = Host::new();
        let image = host.directory("image");
        let many: Vec<String> = (0..3000).map(|n| format!("/layers/{n}")).collect();
        for (mount, kind, word) in [
            (
                RootMount {
                    kind: "ext4".into(),
                    ..bind_root(&image, &[])
                },
                ErrorKind::Unimplemented,
                "a guest may have written to it",
            ),
            (
                RootMount {
                    kind: "erofs".into(),
                    ..bind_root(&image.join("file"), &[])
                },
                ErrorKind::InvalidArgument,
                "erofs mount of",
            ),
            (
                bind_root(Path::new("/no/such"), &[]),
                ErrorKind::InvalidArgument,
                "/no/such",
            ),
            (
                bind_root(&image.join("file"), &[]),
                ErrorKind::InvalidArgument,
                "directory",
            ),
            (
                overlay(vec!["lowerdir=/no/such:/nor/this".into()]),
                ErrorKind::InvalidArgument,
                "/no/such:/nor/this",
            ),
            (
                overlay(vec![format!("lowerdir={}", many.join(":"))]),
                ErrorKind::InvalidArgument,
                "too many layers",
            ),
        ] {
            let error = host.prepare(&[mount], &[]).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(word), "{error}");
            assert!(host.is_empty());
        }
    });
}

#[test]
fn a_second_container_of_the_same_name_leaves_the_first_alone() {
    in_private_mounts(|| {
        let host = Host::new();
        let first = host.prepare(&[host.root()], &[]).unwrap();
        let error = host.prepare(&[host.root()], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(host.guest("web/rootfs/file").exists());
        drop(first);
        let gone = fs::metadata(host.guest("web")).unwrap_err();
        assert_eq!(gone.kind(), NotFound);
    });
}

#[test]
fn later_mounts_of_the_host_appear_only_where_they_are_wanted() {
    in_private_mounts(|| {
        let host = Host::new();
        // A mount that propagates, as those of the host are in its own namespace.
        let volume = host.temporary.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let parent = fs::File::open(host.temporary.path()).unwrap();
        let tmpfs = DetachedTree::tmpfs(c"64k").unwrap();
        let shared = super::super::tree::Attributes {
            propagation: super::super::tree::Propagation::Shared,
            ..super::super::tree::Attributes::NONE
        };
        tmpfs.change(shared, false).unwrap();
        tmpfs
            .attach(std::os::fd::AsFd::as_fd(&parent), "volume")
            .unwrap();
        fs::create_dir(volume.join("later")).unwrap();
        let binds = [
            BindMount {
                recursive: true,
                ..bind(volume.clone())
            },
            BindMount {
                recursive: true,
                follow_host: true,
                ..bind(volume.clone())
            },
        ];
        let container = host.prepare(&[host.root()], &binds).unwrap();
        let inner = fs::File::open(&volume).unwrap();
        let later = DetachedTree::tmpfs(c"64k").unwrap();
        later
            .attach(std::os::fd::AsFd::as_fd(&inner), "later")
            .unwrap();
        fs::write(volume.join("later/file"), "").unwrap();
        assert!(!host.guest(".volumes/0/later/file").exists());
        assert!(host.guest(".volumes/1/later/file").exists());
        drop(container);
        assert!(
            volume.join("later/file").exists(),
            "the host's own mount stays"
        );
        super::super::tree::unmount(&volume).unwrap();
    });
}
