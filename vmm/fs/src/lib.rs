//! `caisson-fs` serves one directory to one virtual machine as a virtio-fs device.
//!
//! The file system itself is the `virtiofsd` library; this program confines itself, fixes the
//! settings and speaks vhost-user. It takes no arguments, reads no configuration and opens nothing
//! by a name that somebody gave it: what it serves is what it was started with.
//!
//! - descriptor 3: a connected stream socket, the vhost-user connection to the VMM;
//! - descriptor 4: the directory to serve, in the mount namespace in which the program is started.
//!   Mounts made below it later are seen if it is a shared mount.
//!
//! It ends with status 0 when the VMM closes the connection, and with status 1 and one sentence on
//! standard error when something is wrong.

mod confinement;
mod device;
mod file_system;
mod filter;
mod inherited;
mod kept_files;
mod open_files;
mod private_roots;
mod ring;

pub use filter::system_calls;

use std::process::ExitCode;

use rustix::process::Resource;

/// Where the VMM's socket is.
const SOCKET: i32 = 3;
/// Where the directory is.
const DIRECTORY: i32 = 4;

/// Why the program cannot serve, or stopped serving.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It was not started as it has to be.
    #[error(transparent)]
    Inherited(#[from] inherited::InheritedError),
    /// It could not lock itself in.
    #[error(transparent)]
    Confinement(#[from] caisson_jail::JailError),
    /// The system calls could not be restricted.
    #[error("cannot set the system call filter: {0}")]
    Filter(std::io::Error),
    /// The limit of open files could not be raised.
    #[error("cannot raise the limit of open files: {0}")]
    OpenFiles(String),
    /// The file system could not be set up.
    #[error("cannot serve the directory: {0}")]
    FileSystem(std::io::Error),
    /// The VMM or the guest broke the protocol.
    #[error(transparent)]
    Device(#[from] device::DeviceError),
}

fn serve() -> Result<(), Error> {
    let socket = inherited::socket(SOCKET)?;
    let directory = inherited::directory(DIRECTORY)?;
    caisson_jail::close_from(DIRECTORY.unsigned_abs() + 1)?;
    // A core would hold what the guest's files hold.
    caisson_jail::set_limits(&[(Resource::Core, 0)])?;
    let open_files = virtiofsd::limits::setup_rlimit_nofile(None).map_err(Error::OpenFiles)?;
    let open_files = open_files.min(open_files::share_of_host());
    let own_descriptors = confinement::enter(directory)?;
    confinement::drop_privileges()?;
    let file_system = file_system::open(own_descriptors, open_files).map_err(Error::FileSystem)?;
    filter::install().map_err(Error::Filter)?;
    Ok(device::serve(socket, file_system)?)
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caisson-fs: {error}");
            ExitCode::FAILURE
        }
    }
}
