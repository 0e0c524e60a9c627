//! What Caisson needs of any guest kernel, its own or one that a user brings.
//!
//! This file depends on nothing, so that everyone who judges a kernel can use the same list. The
//! fragments in `guest-image/kernel` ask for much more: what containers like to find. This is what
//! a pod does not start without.

/// A kernel configuration option that must be compiled in (`=y`: a guest loads no modules).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequiredOption {
    /// The option, with the `CONFIG_` in front.
    pub name: &'static str,
    /// What it is needed for, as the end of a sentence: "it is needed …".
    pub why: &'static str,
}

const fn option(name: &'static str, why: &'static str) -> RequiredOption {
    RequiredOption { name, why }
}

/// The options, in the order in which a starting guest needs them.
pub const REQUIRED: &[RequiredOption] = &[
    option("CONFIG_64BIT", "to run the agent, an x86-64 program"),
    option("CONFIG_PVH", "as the way into the kernel without firmware"),
    option(
        "CONFIG_KVM_GUEST",
        "for the clock, the only time source of the machine",
    ),
    option(
        "CONFIG_X86_MPPARSE",
        "to find processors and interrupts without ACPI",
    ),
    option("CONFIG_SMP", "to run more than one processor"),
    option(
        "CONFIG_BLK_DEV_INITRD",
        "to start the agent from the guest root",
    ),
    option("CONFIG_BINFMT_ELF", "to run the agent and every container"),
    option(
        "CONFIG_X86_IOPL_IOPERM",
        "to report the phases of the start",
    ),
    option("CONFIG_PCI", "to find the devices"),
    option("CONFIG_PCI_MSI", "for interrupts: devices have no others"),
    option("CONFIG_VIRTIO_PCI", "as the transport of all devices"),
    option("CONFIG_VIRTIO_VSOCKETS", "to speak to the host"),
    option("CONFIG_PROC_FS", "by the agent and in every container"),
    option("CONFIG_SYSFS", "by the agent and in every container"),
    option("CONFIG_DEVTMPFS", "to make device nodes"),
    option(
        "CONFIG_TMPFS",
        "for /dev, /dev/shm and other file systems in memory",
    ),
    option("CONFIG_UNIX98_PTYS", "for terminals"),
    option("CONFIG_FUSE_FS", "by virtio-fs"),
    option(
        "CONFIG_VIRTIO_FS",
        "for root file systems and volumes from the host",
    ),
    option("CONFIG_OVERLAY_FS", "for root file systems made of layers"),
    option("CONFIG_NAMESPACES", "to separate containers"),
    option("CONFIG_UTS_NS", "for a container's own host name"),
    option(
        "CONFIG_IPC_NS",
        "for a container's own System V IPC and message queues",
    ),
    option("CONFIG_PID_NS", "for a container's own processes"),
    option("CONFIG_NET_NS", "for a container's own network"),
    option("CONFIG_USER_NS", "for a container's own users"),
    option("CONFIG_CGROUPS", "to account for and limit containers"),
    option("CONFIG_MEMCG", "for memory limits"),
    option("CONFIG_CGROUP_SCHED", "for CPU shares"),
    option("CONFIG_CFS_BANDWIDTH", "for CPU limits"),
    option("CONFIG_CPUSETS", "to place containers on processors"),
    option(
        "CONFIG_CGROUP_PIDS",
        "for limits on the number of processes",
    ),
    option("CONFIG_BPF_SYSCALL", "for the rules about devices"),
    option("CONFIG_CGROUP_BPF", "for the rules about devices"),
    option("CONFIG_SECCOMP_FILTER", "for system call filters"),
    option("CONFIG_SYSVIPC", "for System V IPC in containers"),
    option("CONFIG_POSIX_MQUEUE", "for /dev/mqueue"),
    option("CONFIG_MULTIUSER", "for users other than root"),
    option("CONFIG_UNIX", "for sockets inside containers"),
    option("CONFIG_INET", "for the network"),
    option("CONFIG_FUTEX", "by every threaded program"),
    option("CONFIG_EPOLL", "by the agent"),
    option("CONFIG_EVENTFD", "by the agent"),
    option("CONFIG_SIGNALFD", "by the agent"),
    option("CONFIG_TIMERFD", "by the agent"),
    option(
        "CONFIG_INOTIFY_USER",
        "to see a cgroup run out of memory or become empty",
    ),
    option(
        "CONFIG_MEMFD_CREATE",
        "to start containers from a sealed copy of the agent",
    ),
];

#[cfg(test)]
#[path = "required_test.rs"]
mod tests;
