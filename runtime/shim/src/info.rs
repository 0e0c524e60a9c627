//! `-info` and `-v`: what this runtime is.

use std::io::{self, Write};

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};

/// The name under which people select the runtime.
const NAME: &str = "io.containerd.caisson.v2";

/// The mounts that containerd is to leave to the shim (docs/mounts.md of containerd): layers are disks
/// of the machine, and what is made of them is made there. What only containerd can do, such as making
/// the file system of a writable layer, is not among them.
const ALLOW_MOUNTS: (&str, &str) = (
    "containerd.io/runtime-allow-mounts",
    "mkdir/*,format/*,erofs",
);

/// Prints a `RuntimeInfo` message, as containerd 2.2 and later ask for.
///
/// # Errors
/// Fails when standard output does.
pub(crate) fn info() -> anyhow::Result<()> {
    io::stdout().write_all(&message().write_to_bytes()?)?;
    io::stdout().flush()?;
    Ok(())
}

/// Prints the version for people.
///
/// # Errors
/// Fails when standard output does.
pub(crate) fn version() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "containerd-shim-caisson-v2 {}",
        env!("CARGO_PKG_VERSION")
    )?;
    out.flush()?;
    Ok(())
}

fn message() -> RuntimeInfo {
    let mut version = RuntimeVersion::new();
    env!("CARGO_PKG_VERSION").clone_into(&mut version.version);
    let mut info = RuntimeInfo::new();
    NAME.clone_into(&mut info.name);
    info.version = MessageField::some(version);
    let (name, mounts) = ALLOW_MOUNTS;
    info.annotations.insert(name.to_owned(), mounts.to_owned());
    info
}

#[cfg(test)]
#[path = "info_test.rs"]
mod tests;
