//! The number of a block device (makedev(3)).

use std::fmt;

/// A block device of the host or of the guest, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceNumber {
    /// Which driver: 12 bits in Linux.
    pub(crate) major: u32,
    /// Which of its devices: 20 bits.
    pub(crate) minor: u32,
}

impl DeviceNumber {
    /// Most bits of the two parts in Linux (MINORBITS of linux/kdev_t.h).
    const MAJORS: u32 = 1 << 12;
    const MINORS: u32 = 1 << 20;

    /// What a configuration says, if Linux can have such a device.
    pub(crate) fn new(major: i64, minor: i64) -> Option<Self> {
        Some(Self {
            major: u32::try_from(major).ok().filter(|n| *n < Self::MAJORS)?,
            minor: u32::try_from(minor).ok().filter(|n| *n < Self::MINORS)?,
        })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}
