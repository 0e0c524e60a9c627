//! Mount options as words, as in fstab(5) and the OCI runtime specification.

use rustix::mount::{MountAttrFlags, MountFlags};

/// Options sorted by who takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// Flags for mount(2).
    pub(crate) flags: MountFlags,
    /// With the mounts below the source.
    pub(crate) recursive: bool,
    /// Options for the file system, in order.
    pub(crate) data: Vec<String>,
}

/// What a word does to the flags.
enum Word {
    Set(MountFlags),
    Clear(MountFlags),
    Bind,
    RecursiveBind,
    Nothing,
    Data,
}

fn word(option: &str) -> Word {
    match option {
        "ro" => Word::Set(MountFlags::RDONLY),
        "rw" => Word::Clear(MountFlags::RDONLY),
        "nosuid" => Word::Set(MountFlags::NOSUID),
        "suid" => Word::Clear(MountFlags::NOSUID),
        "nodev" => Word::Set(MountFlags::NODEV),
        "dev" => Word::Clear(MountFlags::NODEV),
        "noexec" => Word::Set(MountFlags::NOEXEC),
        "exec" => Word::Clear(MountFlags::NOEXEC),
        "sync" => Word::Set(MountFlags::SYNCHRONOUS),
        "async" => Word::Clear(MountFlags::SYNCHRONOUS),
        "dirsync" => Word::Set(MountFlags::DIRSYNC),
        "noatime" => Word::Set(MountFlags::NOATIME),
        "atime" => Word::Clear(MountFlags::NOATIME),
        "nodiratime" => Word::Set(MountFlags::NODIRATIME),
        "diratime" => Word::Clear(MountFlags::NODIRATIME),
        "relatime" => Word::Set(MountFlags::RELATIME),
        "norelatime" => Word::Clear(MountFlags::RELATIME),
        "strictatime" => Word::Set(MountFlags::STRICTATIME),
        "nostrictatime" => Word::Clear(MountFlags::STRICTATIME),
        "nosymfollow" => Word::Set(MountFlags::NOSYMFOLLOW),
        "bind" => Word::Bind,
        "rbind" => Word::RecursiveBind,
        // Propagation is decided here, not by the snapshotter.
        "defaults" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
            Word::Nothing
        }
        _ => Word::Data,
    }
}

impl MountOptions {
    /// Sorts options; the last of contradicting ones holds.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            recursive: false,
            data: Vec::new(),
        };
        for option in options {
            match word(option) {
                Word::Set(flag) => parsed.flags |= flag,
                Word::Clear(flag) => parsed.flags -= flag,
                Word::Bind => {}
                Word::RecursiveBind => parsed.recursive = true,
                Word::Nothing => {}
                Word::Data => parsed.data.push(option.clone()),
            }
        }
        parsed
    }

    /// The flags of a bind mount as attributes of the mount: what to set and what to clear first
    /// (the access time modes are one field, mount_setattr(2)).
    pub(crate) fn attributes(&self) -> (MountAttrFlags, MountAttrFlags) {
        let mut set = MountAttrFlags::empty();
        for (flag, attribute) in [
            (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
            (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (
                MountFlags::NODIRATIME,
                MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            ),
            (
                MountFlags::NOSYMFOLLOW,
                MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
            ),
        ] {
            if self.flags.contains(flag) {
                set |= attribute;
            }
        }
        let access_time = if self.flags.contains(MountFlags::NOATIME) {
            Some(MountAttrFlags::MOUNT_ATTR_NOATIME)
        } else if self.flags.contains(MountFlags::STRICTATIME) {
            Some(MountAttrFlags::MOUNT_ATTR_STRICTATIME)
        } else if self.flags.contains(MountFlags::RELATIME) {
            Some(MountAttrFlags::MOUNT_ATTR_RELATIME)
        } else {
            None
        };
        match access_time {
            Some(mode) => (set | mode, MountAttrFlags::MOUNT_ATTR__ATIME),
            None => (set, MountAttrFlags::empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountAttrFlags, MountFlags};

    use super::MountOptions;

    fn parse(options: &str) -> MountOptions {
        let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
        MountOptions::parse(&options)
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let overlay =
            parse("index=off ro workdir=/w upperdir=/u lowerdir=/a:/b volatile userxattr nodev");
        assert_eq!(overlay.flags, MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!(
            overlay.data.join(","),
            "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b,volatile,userxattr"
        );
        assert!(!overlay.recursive);

        let bind = parse("rbind rprivate ro rw");
        assert!(bind.recursive);
        assert_eq!((bind.flags, bind.data.len()), (MountFlags::empty(), 0));
    }

    #[test]
    fn access_time_modes_are_one_field() {
        let (set, clear) = parse("ro noatime").attributes();
        assert_eq!(
            set,
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME
        );
        assert_eq!(clear, MountAttrFlags::MOUNT_ATTR__ATIME);
        assert_eq!(
            parse("nosuid").attributes(),
            (MountAttrFlags::MOUNT_ATTR_NOSUID, MountAttrFlags::empty())
        );
    }
}
