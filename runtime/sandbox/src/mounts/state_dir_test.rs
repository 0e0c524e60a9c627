use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::private_mounts::in_private_mounts;
use super::super::tree::DetachedTree;
use super::StateDir;
use crate::ErrorKind;

fn mounted_below(path: &Path) -> usize {
    super::mountinfo::outermost(&path.canonicalize().unwrap())
        .unwrap()
        .len()
}

#[test]
fn what_is_mounted_in_shared_appears_in_export_which_is_read_only() {
    in_private_mounts(|| {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("run/default/pod");
        let state = StateDir::create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );

        fs::create_dir(path.join("shared/web")).unwrap();
        let tree = DetachedTree::tmpfs(c"64k").unwrap();
        tree.attach(state.shared(), "web").unwrap();
        fs::write(path.join("shared/web/file"), "seen").unwrap();

        let export = format!("/proc/self/fd/{}", state.export().as_raw_fd());
        let export = Path::new(&export);
        assert_eq!(fs::read_to_string(export.join("web/file")).unwrap(), "seen");
        fs::write(export.join("web/file"), "written").unwrap();
        let refused = fs::create_dir(export.join("other")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

        drop(state);
        assert!(!temporary.path().join("run").exists());
    });
}

#[test]
fn a_directory_that_exists_is_refused_and_kept() {
    in_private_mounts(|| {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("run/default/pod");
        let state = StateDir::create(&path).unwrap();
        let error = StateDir::create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(path.to_str().unwrap()));
        assert_eq!(mounted_below(&path), 2);
        drop(state);
    });
}

#[test]
fn parents_stay_while_another_sandbox_uses_them() {
    in_private_mounts(|| {
        let temporary = tempfile::tempdir().unwrap();
        let run = temporary.path().join("run");
        let one = StateDir::create(&run.join("default/one")).unwrap();
        let two = StateDir::create(&run.join("default/two")).unwrap();
        drop(one);
        assert!(run.join("default/two").exists());
        assert!(!run.join("default/one").exists());
        drop(two);
        assert!(!run.exists());
        assert!(temporary.path().exists());
    });
}

#[test]
fn removing_unmounts_and_never_deletes_what_was_mounted() {
    in_private_mounts(|| {
        let temporary = tempfile::tempdir().unwrap();
        let volume = temporary.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("precious"), "data").unwrap();
        // With a mount of its own, below a directory that a container may exchange for a link.
        fs::create_dir_all(volume.join("below/inner")).unwrap();
        let below = super::open(&volume.join("below")).unwrap();
        let inner = DetachedTree::tmpfs(c"64k").unwrap();
        inner
            .attach(std::os::fd::AsFd::as_fd(&below), "inner")
            .unwrap();
        fs::write(volume.join("below/inner/precious"), "data").unwrap();
        let path = temporary.path().join("run/default/pod");
        let state = StateDir::create(&path).unwrap();
        fs::create_dir(path.join("shared/web")).unwrap();
        let tree = DetachedTree::clone_of(&volume, true).unwrap();
        tree.attach(state.shared(), "web").unwrap();
        let staged = DetachedTree::clone_of(&volume, true).unwrap();
        fs::create_dir(path.join("staging/web")).unwrap();
        staged.attach(state.staging(), "web").unwrap();

        // As after a crash: nothing but the path is known.
        std::mem::forget(state);
        StateDir::remove(&path).unwrap();

        assert!(!temporary.path().join("run").exists());
        for file in ["precious", "below/inner/precious"] {
            assert_eq!(fs::read_to_string(volume.join(file)).unwrap(), "data");
        }
        super::tree::unmount(&volume.join("below/inner")).unwrap();
        StateDir::remove(&path).unwrap();
    });
}

#[test]
fn a_mount_that_cannot_be_seen_stops_the_removal() {
    // A tree removed by path would be emptied here; by descriptor, without crossing mounts, not.
    in_private_mounts(|| {
        let temporary = tempfile::tempdir().unwrap();
        let volume = temporary.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("precious"), "data").unwrap();
        let victim = temporary.path().join("victim");
        fs::create_dir_all(victim.join("a/b")).unwrap();
        let tree = DetachedTree::clone_of(&volume, false).unwrap();
        let parent = super::open(&victim.join("a")).unwrap();
        tree.attach(std::os::fd::AsFd::as_fd(&parent), "b").unwrap();

        let directory = super::open(temporary.path()).unwrap();
        let error = super::remove_tree::remove_tree(&directory, "victim").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        assert!(volume.join("precious").exists());
        super::tree::unmount(&victim.join("a/b")).unwrap();
        super::remove_tree::remove_tree(&directory, "victim").unwrap();
        assert!(!victim.exists());
    });
}

#[test]
fn symlinks_are_removed_not_followed() {
    let temporary = tempfile::tempdir().unwrap();
    let outside = temporary.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "data").unwrap();
    let victim = temporary.path().join("victim");
    fs::create_dir(&victim).unwrap();
    std::os::unix::fs::symlink(&outside, victim.join("link")).unwrap();
    let directory = super::open(temporary.path()).unwrap();
    super::remove_tree::remove_tree(&directory, "victim").unwrap();
    assert!(!victim.exists());
    assert!(outside.join("precious").exists());
}
