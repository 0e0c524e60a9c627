//! The pieces in which programs get memory.

use std::io;
use std::path::Path;

use crate::kernel_file;

/// The kernel's setting for pieces of 64 KiB (Documentation/admin-guide/mm/transhuge.rst).
const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";

/// Has the kernel give 64 KiB instead of 4 where a program first touches a mapping that has so much
/// room: a fault for each page costs more than clearing it. Pieces of 2 MiB are for programs that ask
/// for them, since a pod's memory would grow by these.
///
/// # Errors
/// What `open(2)` and `write(2)` answer; a kernel without the setting is none.
pub fn enlarge() -> io::Result<()> {
    match kernel_file::set(Path::new(SETTING), "always") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
