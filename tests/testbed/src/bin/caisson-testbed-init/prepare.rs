//! The preparation boot: images imported once, kept in the disk.

use std::process::{Command, Stdio};

use anyhow::Result;
use caisson_testbed::Prepare;

use crate::link::Link;
use crate::mounts;
use crate::processes::Processes;

/// Imports every archive into its namespace.
pub(crate) fn import_all(prepare: &Prepare, processes: &Processes, link: &mut Link) -> Result<()> {
    let disk = mounts::second_disk()?;
    for import in &prepare.imports {
        link.note(&format!(
            "importing {} into namespace {}",
            import.archive, import.namespace
        ))?;
        let mut command = Command::new("ctr");
        command
            .env_clear()
            .env("PATH", crate::PATH)
            .args(["-n", &import.namespace, "images", "import"])
            .arg(disk.join(&import.archive))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        processes.run(&mut command)?;
    }
    Ok(())
}
