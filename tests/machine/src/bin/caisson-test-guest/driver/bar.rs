//! The registers of a function, as memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};

use super::no_such_width;

/// A mapped BAR.
pub(super) struct Bar {
    registers: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value, for good.
unsafe impl Send for Bar {}

impl Bar {
    /// Maps a `resource` file of sysfs.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn open(path: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing.
        let registers = unsafe {
            libc::mmap(
                null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if registers == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let registers =
            NonNull::new(registers.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { registers, length })
    }

    /// Writes with one access.
    ///
    /// # Errors
    /// When it would leave the BAR or its alignment.
    pub(super) fn write(&self, offset: u16, width: u8, value: u64) -> io::Result<()> {
        match width {
            1 => self.put(offset, value as u8),
            2 => self.put(offset, value as u16),
            4 => self.put(offset, value as u32),
            8 => self.put(offset, value),
            _ => Err(no_such_width()),
        }
    }

    /// Reads with one access.
    ///
    /// # Errors
    /// When it would leave the BAR or its alignment.
    pub(super) fn read(&self, offset: u16, width: u8) -> io::Result<u64> {
        match width {
            1 => self.take::<u8>(offset).map(u64::from),
            2 => self.take::<u16>(offset).map(u64::from),
            4 => self.take::<u32>(offset).map(u64::from),
            8 => self.take::<u64>(offset),
            _ => Err(no_such_width()),
        }
    }

    fn put<T>(&self, offset: u16, value: T) -> io::Result<()> {
        let register = self.register::<T>(offset)?;
        // SAFETY: it lies in the mapping and is aligned.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    fn take<T: Copy>(&self, offset: u16) -> io::Result<T> {
        let register = self.register::<T>(offset)?;
        // SAFETY: it lies in the mapping and is aligned; all bits are a number.
        Ok(unsafe { register.read_volatile() })
    }

    fn register<T>(&self, offset: u16) -> io::Result<*mut T> {
        let offset = usize::from(offset);
        if offset + size_of::<T>() > self.length || !offset.is_multiple_of(size_of::<T>()) {
            return Err(io::Error::other("that is not a register of the BAR"));
        }
        Ok(self.registers.as_ptr().wrapping_add(offset).cast())
    }
}
