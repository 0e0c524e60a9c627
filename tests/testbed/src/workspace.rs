//! This checkout of Caisson, and what cargo builds of it.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The top of the checkout this program was built from.
///
/// # Errors
/// When it has moved since.
pub fn folder() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .find(|folder| folder.join("Cargo.lock").exists())
        .map(Path::to_path_buf)
        .with_context(|| format!("the checkout at {} is gone", here.display()))
}

/// Runs cargo with `arguments` (build, rustc …) and returns the executables by name.
///
/// # Errors
/// When the build fails; cargo has said why on standard error.
pub(crate) fn build(arguments: &[&str], after: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .args(after)
        .current_dir(folder()?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // What `cargo run` tells us about ourselves would tell build scripts that something changed.
    for (name, _) in env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if ours {
            command.env_remove(name);
        }
    }
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executables = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let name = message.pointer("/target/name")?.as_str()?.to_owned();
            let path = message.get("executable")?.as_str()?.into();
            Some((name, path))
        });
    Ok(executables.collect())
}

/// Builds a program that needs no library where it runs, and returns its path.
///
/// # Errors
/// As [`build`].
pub fn static_program(package: &str, name: &str) -> Result<PathBuf> {
    let program = [
        "rustc",
        "--quiet",
        "--release",
        "-p",
        package,
        "--bin",
        name,
    ];
    let built = build(&program, &["--", "-C", "target-feature=+crt-static"])?;
    Ok(executable(&built, name)?.to_path_buf())
}

/// Builds a program with its debug assertions, and returns its path.
///
/// # Errors
/// As [`build`].
pub fn debug_program(package: &str, name: &str) -> Result<PathBuf> {
    let built = build(&["build", "--quiet", "-p", package, "--bin", name], &[])?;
    Ok(executable(&built, name)?.to_path_buf())
}

/// The path of one executable of a build.
///
/// # Errors
/// When the build did not make it.
pub(crate) fn executable<'a>(built: &'a BTreeMap<String, PathBuf>, name: &str) -> Result<&'a Path> {
    built
        .get(name)
        .map(PathBuf::as_path)
        .with_context(|| format!("cargo built no executable called {name}"))
}
