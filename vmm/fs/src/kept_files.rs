//! Files that the guest uses without opening them: it names the handle 0 then.
//!
//! An open file costs two requests besides what is done with it. Linux can leave them out for a whole
//! connection only; so the guest's kernel has a patch (`guest-image/kernel/patches`, "nodes without
//! open") that leaves them out for what is marked with [`NO_OPEN`]. Such a file is opened here when it
//! is first read, and a few of them are kept open.
//!
//! A kernel without the patch takes no notice of the mark: it opens files as ever, and its files that it
//! has created have the handle 0, which needs no release.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtiofsd::filesystem::{Context, FileSystem, ROOT_ID};
use virtiofsd::fuse::InHeader;
use virtiofsd::passthrough::PassthroughFs;

/// Of the flags of a file's attributes (`struct fuse_attr`): its handle may be 0. Linux gives out its
/// flags from the other end.
pub(crate) const NO_OPEN: u32 = 1 << 31;

/// The handle of a file that the guest has not opened.
const NONE: u64 = 0;

/// How many are kept open at most: the last ones used. Each takes one of the files that the program may
/// open.
const MOST: usize = 64;

/// Flags that make a difference for every write, with which a file is opened for one descriptor only.
const OWN: i32 = libc::O_DIRECT | libc::O_SYNC | libc::O_DSYNC;

/// What a file is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Its content is read.
    Read,
    /// Its content is changed.
    Write,
    /// What was written is brought to the medium.
    Sync,
    /// The names in a directory are read.
    List,
}

/// A file that is open.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// The library's numbers of it.
    inode: u64,
    handle: u64,
    /// How it was opened.
    access: i32,
    is_directory: bool,
}

impl Kept {
    fn serves(self, purpose: Use) -> bool {
        match purpose {
            Use::List => self.is_directory,
            Use::Read => !self.is_directory && self.access != libc::O_WRONLY,
            Use::Write => !self.is_directory && self.access != libc::O_RDONLY,
            Use::Sync => !self.is_directory,
        }
    }
}

/// Those that are open for the guest although it has not opened them.
#[derive(Debug, Default)]
pub(crate) struct KeptFiles {
    /// The last one used is the last.
    kept: Mutex<VecDeque<Kept>>,
}

impl KeptFiles {
    /// The library's handle of a file for which the guest names `handle`: that one, or one that is
    /// kept.
    ///
    /// # Errors
    /// Fails when the file cannot be opened.
    pub(crate) fn handle(
        &self,
        served: &PassthroughFs,
        context: Context,
        inode: u64,
        handle: u64,
        purpose: Use,
    ) -> io::Result<u64> {
        if handle != NONE {
            return Ok(handle);
        }
        if let Some(kept) = self.find(inode, purpose) {
            return Ok(kept);
        }
        let (access, is_directory) = match purpose {
            Use::Read | Use::Sync => (libc::O_RDONLY, false),
            Use::Write => (libc::O_RDWR, false),
            Use::List => (libc::O_RDONLY, true),
        };
        let (opened, _) = match is_directory {
            true => served.opendir(context, inode, access.cast_unsigned())?,
            false => served.open(context, inode, false, access.cast_unsigned())?,
        };
        let handle = opened.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let kept = Kept {
            inode,
            handle,
            access,
            is_directory,
        };
        self.add(served, context, kept);
        Ok(handle)
    }

    /// Keeps a file that the guest has created with `flags`; returns the handle that it needs for it.
    pub(crate) fn keep_created(
        &self,
        served: &PassthroughFs,
        context: Context,
        inode: u64,
        handle: Option<u64>,
        flags: u32,
    ) -> Option<u64> {
        let flags = flags.cast_signed();
        if let Some(handle) = handle
            && flags & OWN == 0
        {
            let kept = Kept {
                inode,
                handle,
                access: flags & libc::O_ACCMODE,
                is_directory: false,
            };
            self.add(served, context, kept);
            return None;
        }
        handle
    }

    /// Closes what is kept of a file for this purpose, or for any. What was opened to read has to go when
    /// others open it to write: an overlay has another file to read from then.
    pub(crate) fn close(
        &self,
        served: &PassthroughFs,
        context: Context,
        inode: u64,
        purpose: Option<Use>,
    ) {
        let mut all = self.lock();
        let is_meant =
            |kept: &Kept| kept.inode == inode && purpose.is_none_or(|purpose| kept.serves(purpose));
        while let Some(index) = all.iter().position(is_meant) {
            if let Some(kept) = all.remove(index) {
                release(served, context, kept);
            }
        }
    }

    fn find(&self, inode: u64, purpose: Use) -> Option<u64> {
        let mut all = self.lock();
        let is_meant = |kept: &Kept| kept.inode == inode && kept.serves(purpose);
        let index = all.iter().rposition(is_meant)?;
        let kept = all.remove(index)?;
        all.push_back(kept);
        Some(kept.handle)
    }

    fn add(&self, served: &PassthroughFs, context: Context, kept: Kept) {
        let mut all = self.lock();
        if all.len() >= MOST
            && let Some(oldest) = all.pop_front()
        {
            release(served, context, oldest);
        }
        all.push_back(kept);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // There is one thread: nobody else can have left it in pieces.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the guest names a handle at all.
pub(crate) fn is_opened(handle: u64) -> bool {
    handle != NONE
}

/// Makes the library count its handles from 1.
///
/// # Errors
/// Fails when the served directory cannot be opened.
pub(crate) fn use_up_no_handle(served: &PassthroughFs) -> io::Result<()> {
    let context = Context::from(InHeader::default());
    let (handle, _) = served.opendir(context, ROOT_ID, libc::O_RDONLY.cast_unsigned())?;
    match handle {
        Some(handle) => served.releasedir(context, ROOT_ID, 0, handle),
        None => Ok(()),
    }
}

fn release(served: &PassthroughFs, context: Context, kept: Kept) {
    let Kept { inode, handle, .. } = kept;
    // What could go wrong is that the library does not know it, and then it is not open.
    let _ = match kept.is_directory {
        true => served.releasedir(context, inode, 0, handle),
        false => served.release(context, inode, 0, handle, false, false, None),
    };
}
