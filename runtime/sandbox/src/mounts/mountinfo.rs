//! What is mounted below a directory (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The mount points at or below `directory` in this mount namespace that are below no other of them,
/// in the order in which they were mounted; one on which several mounts lie comes as often. What is
/// below a mount is not named, since the way there may lead through a directory into which a guest
/// can write: who detaches the mount takes it along.
pub(super) fn outermost(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mountinfo = fs::read("/proc/thread-self/mountinfo")?;
    Ok(without_inner(&parse(&mountinfo, directory)))
}

fn without_inner(mount_points: &[PathBuf]) -> Vec<PathBuf> {
    let inner = |path: &PathBuf| {
        let above = |other: &PathBuf| path != other && path.starts_with(other);
        mount_points.iter().any(above)
    };
    let outer = mount_points.iter().filter(|path| !inner(path));
    outer.cloned().collect()
}

/// The mounts below the directory that `opened` is open on, as the kernel describes them, one line
/// each. What is mounted on the directory itself is not below it.
pub(super) fn described_below(opened: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let directory = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    let mountinfo = fs::read("/proc/thread-self/mountinfo")?;
    Ok(lines(&mountinfo)
        .filter(|(_, mount_point)| mount_point.starts_with(&directory) && *mount_point != directory)
        .map(|(line, _)| line.to_owned())
        .collect())
}

fn parse(mountinfo: &[u8], directory: &Path) -> Vec<PathBuf> {
    lines(mountinfo)
        .map(|(_, mount_point)| mount_point)
        .filter(|mount_point| mount_point.starts_with(directory))
        .collect()
}

/// The lines with their mount points.
fn lines(mountinfo: &[u8]) -> impl Iterator<Item = (&[u8], PathBuf)> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        let field = line.split(|&byte| byte == b' ').nth(4)?;
        Some((line, PathBuf::from(OsString::from_vec(unescape(field)))))
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = octal {
            bytes.push(value);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{parse, without_inner};

    #[test]
    fn nothing_below_a_mount_is_named() {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let all = paths(&[
            "/s/shared/v/0/link/deep",
            "/s/shared",
            "/s/export/v",
            "/s/shared",
            "/s/export",
        ]);
        assert_eq!(
            without_inner(&all),
            paths(&["/s/shared", "/s/shared", "/s/export"])
        );
        assert_eq!(without_inner(&paths(&["/s/a", "/s/ab"])).len(), 2);
    }

    #[test]
    fn mount_points_below_a_directory_are_found_by_component() {
        let text = b"1 0 8:1 / / rw - ext4 /dev/root rw\n\
            2 1 0:5 / /run/caisson/a rw shared:1 - tmpfs none rw\n\
            3 2 0:6 / /run/caisson/a/b\\040c\\134 rw - tmpfs none rw\n\
            4 1 0:7 / /run/caisson/ab rw - tmpfs none rw\n\
            garbage\n";
        assert_eq!(
            parse(text, Path::new("/run/caisson/a")),
            [
                PathBuf::from("/run/caisson/a"),
                PathBuf::from("/run/caisson/a/b c\\")
            ]
        );
    }
}
