//! What the guest may keep for itself of the file systems that nobody but the guest changes.
//!
//! ```text
//!  /                    the shared directory
//!  ├── CONTAINER/       a directory of a container
//!  │   ├── private      says that nobody on the host changes what is mounted on rootfs
//!  │   └── rootfs/      … everything below it is private then, as far as it is that one mount
//!  └── .volumes/        also change on the host, as does a rootfs without the mark
//! ```
//!
//! The number of a private file has a bit of its own, so that nothing has to be kept about it. A guest
//! that sets or clears the bit only changes what it may keep itself: access is decided elsewhere.
//!
//! Private files need not be opened either, see [`kept_files`](crate::kept_files).

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    ROOT_ID, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{ATTR_SUBMOUNT, Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;

use crate::kept_files::{self, KeptFiles, NO_OPEN, Use, is_opened};

/// What the shim calls the mark and the root file system in a container's directory.
const MARK: &CStr = c"private";
const ROOTFS: &CStr = c"rootfs";

/// Bits of a number that the guest gets. The library counts from 1 and does not come so far.
const PRIVATE: u64 = 1 << 62;
const TOP: u64 = 1 << 61;
/// For tests that change them.
#[cfg(test)]
pub(crate) const NUMBER_BITS: [u64; 2] = [PRIVATE, TOP];

/// As good as for ever: the guest's kernel keeps the account of what it has changed itself.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// The served file system, of which the guest may keep what is private.
pub(crate) struct PrivateRoots {
    served: PassthroughFs,
    /// What the guest uses without opening it.
    kept: KeptFiles,
}

impl PrivateRoots {
    pub(crate) fn new(file_system: PassthroughFs) -> Self {
        Self {
            served: file_system,
            kept: KeptFiles::default(),
        }
    }

    /// Whether what is called so in a directory is private, unless it is another mount.
    fn is_private(&self, context: Context, parent: u64, name: &CStr) -> bool {
        if parent & PRIVATE != 0 {
            return true;
        }
        if parent & TOP == 0 || name != ROOTFS {
            return false;
        }
        match self.served.lookup(context, plain(parent), MARK) {
            Ok(mark) => {
                self.served.forget(context, mark.inode, 1);
                true
            }
            Err(_) => false,
        }
    }

    /// The library's handle of a file for which the guest names `handle`.
    fn handle(&self, context: Context, inode: u64, handle: u64, purpose: Use) -> io::Result<u64> {
        self.kept
            .handle(&self.served, context, inode, handle, purpose)
    }

    /// Closes what is open of a file although the guest has not opened it.
    fn close(&self, context: Context, inode: u64, purpose: Option<Use>) {
        self.kept.close(&self.served, context, inode, purpose);
    }

    /// What the guest gets to know of a file in a directory.
    fn told(&self, context: Context, parent: u64, name: &CStr, entry: Entry) -> Entry {
        let is_mount = entry.attr.flags & ATTR_SUBMOUNT != 0;
        let is_root = parent & TOP != 0;
        if (is_root || !is_mount) && self.is_private(context, parent, name) {
            let mut attr = entry.attr;
            if matches!(attr.mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
                attr.flags |= NO_OPEN;
            }
            return Entry {
                inode: entry.inode | PRIVATE,
                attr,
                attr_timeout: LONG,
                entry_timeout: LONG,
                ..entry
            };
        }
        match parent {
            ROOT_ID => Entry {
                inode: entry.inode | TOP,
                ..entry
            },
            _ => entry,
        }
    }
}

/// The number by which the library knows a file.
fn plain(inode: u64) -> u64 {
    inode & !(PRIVATE | TOP)
}

fn lasting((attributes, time): (Attr, Duration), inode: u64) -> (Attr, Duration) {
    let time = if inode & PRIVATE == 0 { time } else { LONG };
    (attributes, time)
}

/// What the guest need not ask or tell of an open file: of a private one, whether its content is still
/// the same, and of one that is private or only read, that a descriptor of several is closed. A close
/// is where a file system tells that what was written is lost.
fn relaxed(options: OpenOptions, inode: u64, flags: u32) -> OpenOptions {
    let only_reads = flags.cast_signed() & libc::O_ACCMODE == libc::O_RDONLY;
    match inode & PRIVATE {
        0 if only_reads => options | OpenOptions::NOFLUSH,
        0 => options,
        _ => options | OpenOptions::KEEP_CACHE | OpenOptions::NOFLUSH,
    }
}

/// A file that is not there, for as long as the guest does not make it.
fn absent() -> Entry {
    Entry {
        inode: 0,
        generation: 0,
        attr: Attr::default(),
        attr_timeout: LONG,
        entry_timeout: LONG,
    }
}

/// A place in a file as the kernel counts it. The library takes it for granted that it is one.
fn place(offset: u64) -> io::Result<u64> {
    match i64::try_from(offset) {
        Ok(_) => Ok(offset),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Calls that only need the library's number.
macro_rules! passed_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {$(
        fn $name(&self, context: Context, inode: u64, $($argument: $kind),*) -> $answer {
            self.served.$name(context, plain(inode), $($argument),*)
        }
    )*};
}

/// Calls that make a file in a directory.
macro_rules! made {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name(
            &self,
            context: Context,
            parent: u64,
            name: &CStr,
            $($argument: $kind),*
        ) -> io::Result<Entry> {
            let entry = self.served.$name(context, plain(parent), name, $($argument),*)?;
            Ok(self.told(context, parent, name, entry))
        }
    )*};
}

/// Calls that use a file, which the guest may not have opened.
macro_rules! used {
    ($($name:ident($($before:ident: $first:ty),*), $purpose:expr,
       ($($after:ident: $kind:ty),*) -> $answer:ty;)*) => {$(
        fn $name(
            &self,
            context: Context,
            inode: u64,
            $($before: $first,)*
            handle: u64,
            $($after: $kind,)*
        ) -> io::Result<$answer> {
            let inode = plain(inode);
            let handle = self.handle(context, inode, handle, $purpose)?;
            self.served.$name(context, inode, $($before,)* handle, $($after),*)
        }
    )*};
}

/// Calls about the end of a file's use: nothing is to be done for one that the guest has not opened.
macro_rules! ended {
    ($($name:ident($($before:ident: $first:ty),*), ($($after:ident: $kind:ty),*);)*) => {$(
        fn $name(
            &self,
            context: Context,
            inode: u64,
            $($before: $first,)*
            handle: u64,
            $($after: $kind),*
        ) -> io::Result<()> {
            match is_opened(handle) {
                true => self.served.$name(context, plain(inode), $($before,)* handle, $($after),*),
                false => Ok(()),
            }
        }
    )*};
}

impl FileSystem for PrivateRoots {
    type Inode = u64;
    type Handle = u64;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let options = self.served.init(capable)?;
        kept_files::use_up_no_handle(&self.served)?;
        Ok(options)
    }

    fn destroy(&self) {
        self.served.destroy();
    }

    fn lookup(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        match self.served.lookup(context, plain(parent), name) {
            Ok(entry) => Ok(self.told(context, parent, name, entry)),
            Err(error) if parent & PRIVATE != 0 && error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(absent())
            }
            Err(error) => Err(error),
        }
    }

    fn forget(&self, context: Context, inode: u64, count: u64) {
        let inode = plain(inode);
        // A file that was removed takes its place for as long as it is open.
        self.close(context, inode, None);
        self.served.forget(context, inode, count);
    }

    fn batch_forget(&self, context: Context, requests: Vec<(u64, u64)>) {
        for (inode, count) in requests {
            self.forget(context, inode, count);
        }
    }

    fn getattr(
        &self,
        context: Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(Attr, Duration)> {
        let handle = handle.filter(|&handle| is_opened(handle));
        let attributes = self.served.getattr(context, plain(inode), handle)?;
        Ok(lasting(attributes, inode))
    }

    fn setattr(
        &self,
        context: Context,
        inode: u64,
        attributes: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let handle = handle.filter(|&handle| is_opened(handle));
        if valid.contains(SetattrValid::SIZE) {
            self.close(context, plain(inode), Some(Use::Read));
        }
        let attributes = self
            .served
            .setattr(context, plain(inode), attributes, handle, valid)?;
        Ok(lasting(attributes, inode))
    }

    made! {
        mknod(mode: u32, device: u32, umask: u32, extensions: Extensions);
        mkdir(mode: u32, umask: u32, extensions: Extensions);
    }

    fn symlink(
        &self,
        context: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let entry = self
            .served
            .symlink(context, target, plain(parent), name, extensions)?;
        Ok(self.told(context, parent, name, entry))
    }

    fn link(&self, context: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let entry = self
            .served
            .link(context, plain(inode), plain(parent), name)?;
        Ok(self.told(context, parent, name, entry))
    }

    fn rename(
        &self,
        context: Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (old_parent, new_parent) = (plain(old_parent), plain(new_parent));
        self.served
            .rename(context, old_parent, old_name, new_parent, new_name, flags)
    }

    fn open(
        &self,
        context: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if flags.cast_signed() & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY {
            self.close(context, plain(inode), Some(Use::Read));
        }
        let (handle, options) = self.served.open(context, plain(inode), kill_priv, flags)?;
        Ok((handle, relaxed(options, inode, flags)))
    }

    fn create(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let (entry, handle, options) = self.served.create(
            context,
            plain(parent),
            name,
            mode,
            kill_priv,
            flags,
            umask,
            extensions,
        )?;
        let number = entry.inode;
        let entry = self.told(context, parent, name, entry);
        let handle = match entry.attr.flags & NO_OPEN {
            0 => handle,
            _ => self
                .kept
                .keep_created(&self.served, context, number, handle, flags),
        };
        let options = relaxed(options, entry.inode, flags);
        Ok((entry, handle, options))
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        writer: W,
        size: u32,
        offset: u64,
        owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let (inode, offset) = (plain(inode), place(offset)?);
        let handle = self.handle(context, inode, handle, Use::Read)?;
        self.served
            .read(context, inode, handle, writer, size, offset, owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        reader: R,
        size: u32,
        offset: u64,
        owner: Option<u64>,
        delayed: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        let (inode, offset) = (plain(inode), place(offset)?);
        let handle = self.handle(context, inode, handle, Use::Write)?;
        self.served.write(
            context, inode, handle, reader, size, offset, owner, delayed, kill_priv, flags,
        )
    }

    fn readdir(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<Self::DirIter> {
        let inode = plain(inode);
        if offset == 0 && !is_opened(handle) {
            // Who begins sees the directory as it is now.
            self.close(context, inode, Some(Use::List));
        }
        let handle = self.handle(context, inode, handle, Use::List)?;
        self.served.readdir(context, inode, handle, size, offset)
    }

    used! {
        fsync(data_only: bool), Use::Sync, () -> ();
        fsyncdir(data_only: bool), Use::List, () -> ();
        fallocate(), Use::Write, (mode: u32, offset: u64, length: u64) -> ();
        lseek(), Use::Read, (offset: u64, whence: u32) -> u64;
    }

    ended! {
        flush(), (owner: u64);
        release(flags: u32), (flush: bool, unlock: bool, owner: Option<u64>);
        releasedir(flags: u32), ();
    }

    passed_on! {
        readlink() -> io::Result<Vec<u8>>;
        unlink(name: &CStr) -> io::Result<()>;
        rmdir(name: &CStr) -> io::Result<()>;
        statfs() -> io::Result<libc::statvfs64>;
        setxattr(
            name: &CStr,
            value: &[u8],
            flags: u32,
            extra: SetxattrFlags
        ) -> io::Result<()>;
        getxattr(name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        listxattr(size: u32) -> io::Result<ListxattrReply>;
        removexattr(name: &CStr) -> io::Result<()>;
        opendir(flags: u32) -> io::Result<(Option<u64>, OpenOptions)>;
        access(mask: u32) -> io::Result<()>;
        syncfs() -> io::Result<()>;
    }

    fn copyfilerange(
        &self,
        context: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        let (inode_in, inode_out) = (plain(inode_in), plain(inode_out));
        let handle_in = self.handle(context, inode_in, handle_in, Use::Read)?;
        let handle_out = self.handle(context, inode_out, handle_out, Use::Write)?;
        self.served.copyfilerange(
            context, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, length,
            flags,
        )
    }
}
