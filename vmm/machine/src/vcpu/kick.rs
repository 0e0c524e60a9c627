//! Getting a vCPU thread out of the guest: a signal whose handler sets `immediate_exit`.
//!
//! The signal alone is not enough. If it comes between the thread's last look at the stop flag and
//! the entry into the guest, nothing would interrupt the guest; with `immediate_exit` set by the
//! handler the entry returns at once (Linux Documentation/virt/kvm/api.rst, KVM_RUN).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::ptr::null_mut;

use kvm_ioctls::VcpuFd;

thread_local! {
    /// The byte `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// The signal: the first for free use.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {
    // The thread local needs no initialisation and no destructor, so this only loads an address.
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: the pointer is into the mapping of the vCPU that this very thread owns; it is
        // taken away before the mapping is (see `Kickable`).
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler, once for the process.
///
/// # Errors
/// Fails when the kernel refuses, which it has no reason to.
pub(crate) fn install() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // SAFETY: an all-zero sigaction is a valid one without flags, mask and restorer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing but what a signal handler may; `action` is initialised.
    let result = unsafe { libc::sigaction(signal(), &raw const action, null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A vCPU that the calling thread runs, and that a kick gets out of the guest.
pub(crate) struct Kickable {
    vcpu: VcpuFd,
}

impl Kickable {
    /// Binds `vcpu` to the calling thread.
    pub(crate) fn new(mut vcpu: VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.with(|cell| cell.set(flag));
        Self { vcpu }
    }

    /// The vCPU.
    pub(crate) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }

    /// Lets the vCPU enter the guest again after a kick.
    pub(crate) fn clear(&mut self) {
        self.vcpu.set_kvm_immediate_exit(0);
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(null_mut()));
    }
}

/// Names a vCPU thread that may be kicked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadId(libc::pid_t);

impl ThreadId {
    /// The calling thread.
    pub(crate) fn current() -> Self {
        Self(rustix::thread::gettid().as_raw_nonzero().get())
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) fn number(self) -> libc::pid_t {
        self.0
    }

    /// Kicks the thread. If it has ended, nothing happens.
    pub(crate) fn kick(self) {
        let number = signal();
        let process = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: tgkill only sends a signal to a thread of this very process, whose handler is
        // installed before the first vCPU thread starts.
        unsafe { libc::syscall(libc::SYS_tgkill, process, self.0, number) };
    }
}
