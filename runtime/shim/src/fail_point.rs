//! Faults on purpose: places where a debug build of the shim can be told to stand still, to fail
//! or to die, so that what happens then can be tested and is the same each time. In a release
//! build passing a point is nothing at all.

#[cfg(debug_assertions)]
mod armed;
#[cfg(not(debug_assertions))]
mod disarmed;

#[cfg(debug_assertions)]
pub(crate) use armed::FailPoints;
#[cfg(not(debug_assertions))]
pub(crate) use disarmed::FailPoints;

/// A place the shim passes. docs/testing.md says what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The program run as `start`, before there is a socket.
    ShimBeforeListen,
    /// The same, when the daemon serves and containerd does not know it yet.
    ShimAfterListen,
    /// Create, before anything is made.
    CreateBeforeVm,
    /// Create, when the guest is up and has no container.
    CreateAfterVm,
    /// Create, when the guest has the container and nobody else knows of it.
    CreateAfterContainer,
    /// Create, when all is done but the answer.
    CreateBeforeAnswer,
    /// Start of a container's init process, before the guest hears of it.
    Start,
    /// Start of an exec, before the guest hears of it.
    Exec,
    /// Kill, before the guest hears of it.
    Kill,
    /// Delete of an ended process, before the guest hears of it.
    DeleteBeforeGuest,
    /// Delete, when the guest has forgotten the process and we have not.
    DeleteAfterGuest,
    /// Shutdown that will end the shim.
    Shutdown,
}
