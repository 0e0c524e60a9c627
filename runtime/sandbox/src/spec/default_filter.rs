//! The system call filter of containers that come without one.
//!
//! By the OCI specification such a container may make every call. But most come without because
//! nobody thought of it: `ctr` gives none, and neither does Kubernetes unless it is told to. So this
//! one denies what a container with the capabilities of the engines' default has no use for, and for
//! which, with few exceptions, it lacks the capability anyway: the parts of the guest's kernel behind
//! these calls are large, and none of its business. Who has any other capability is left alone.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall, Process, Spec,
};

/// What Docker, containerd and podman leave to a container of which nothing is said.
const OF_ENGINES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Those that fail with EPERM.
const DENIED: [&str; 22] = [
    "acct",
    // Keys are not divided among containers.
    "add_key",
    "bpf",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "open_by_handle_at",
    "perf_event_open",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "userfaultfd",
];

/// A container may run programs of all of them.
const ARCHITECTURES: [Arch; 3] = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];

/// Gives the container this filter if it has none and no more capabilities than usual.
pub(super) fn add(spec: &mut Spec) {
    if has_more(spec.process().as_ref()) {
        return;
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    if linux.seccomp().is_some() {
        return;
    }
    let mut denied = LinuxSyscall::default();
    denied
        .set_names(DENIED.map(str::to_owned).to_vec())
        .set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(libc::EPERM.unsigned_abs()));
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActAllow)
        .set_architectures(Some(ARCHITECTURES.to_vec()))
        .set_syscalls(Some(vec![denied]));
    linux.set_seccomp(Some(filter));
    spec.set_linux(Some(linux));
}

/// Whether the container's first process has or could get another capability than those.
fn has_more(process: Option<&Process>) -> bool {
    let Some(sets) = process.and_then(|process| process.capabilities().as_ref()) else {
        return false;
    };
    let sets = [
        sets.bounding(),
        sets.permitted(),
        sets.effective(),
        sets.inheritable(),
        sets.ambient(),
    ];
    let mut all = sets.into_iter().flatten().flatten();
    all.any(|capability| !OF_ENGINES.contains(capability))
}

#[cfg(test)]
#[path = "default_filter_test.rs"]
mod tests;
