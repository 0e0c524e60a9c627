//! `cargo conformance`: containerd's own tests of shims, run on ours in the testbed.
//!
//! The suite is a program of containerd's project, shimtest, which drives a shim without
//! containerd. Nothing of it is part of this repository: it is run when somebody has built it.

use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use caisson_testbed::{cache_folder, packages};
use clap::Args;

use crate::testbed_command::{again, passed_on};

/// Run containerd's own tests of shims, shimtest, on Caisson's.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArguments {
    /// Play the tests that go on until a time is over, for this long each, instead of the others.
    #[arg(long, value_name = "SECONDS")]
    stress: Option<u64>,
    /// Only tests whose name matches this regular expression.
    #[arg(long, value_name = "PATTERN", conflicts_with = "stress")]
    only: Option<String>,
    /// Root file systems come as images of EROFS and ext4, which the machine mounts, instead of a
    /// directory.
    #[arg(long)]
    images: bool,
}

/// The suite, and the program that it runs in containers.
const PROGRAM: &str = "shimtest.test";
const CONTAINERS_PROGRAM: &str = "testbin";
/// Names the folder that holds both if it is not `peers/shimtest` in the cache.
const VARIABLE: &str = "CAISSON_SHIMTEST";

/// Suites that are left out, and why. docs/conformance.md says more.
const SKIPPED: [(&str, &str); 3] = [
    (
        "net",
        "the network without a network namespace is to be the host's",
    ),
    ("transfer", "the transfer service is not offered"),
    ("uds", "sockets of the host are refused"),
];

/// Tests of the others that are left out for the same reasons.
const SKIPPED_TESTS: [(&str, &str); 7] = [
    ("CrossContainerViaUDS", "sockets of the host are refused"),
    (
        "NetworkSandboxHeldOpen",
        "a network namespace that is a plain file is refused",
    ),
    ("NetworkSandboxPathInStatus", "the same"),
    (
        "ContainerOutboundTCP",
        "the network without a network namespace is to be the host's",
    ),
    (
        "ContainerTrafficScopedToNetworkSandbox",
        "it listens on the address that is the guest's",
    ),
    (
        "InboundToNetnsScopedListener",
        "it dials the guest's address from where that is its own",
    ),
    (
        "MemberContainerExec",
        "its container ends by any signal, also those by which Go interrupts itself",
    ),
];

/// Stress tests, each of which takes all the time there is.
const STRESS: [&str; 2] = ["Lifecycle", "Exec"];
/// A stress test ends this long before the time limit that it is given.
const STRESS_MARGIN: u64 = 60;
/// For all the other tests together; in emulation they take minutes.
const TIME_LIMIT: u64 = 30 * 60;

/// Leaves the stress tests out.
const SHORT: [&str; 1] = ["-test.short"];

/// Runs a program with a profile for every pattern that follows, and fails when one run does.
const RUN_ALL: &str = "program=$1 profile=$2 status=0
export SHIMTEST_TESTBIN=$3
shift 3
for tests; do $program -shimtest.config=$profile -test.run=\"$tests\" || status=1; done
exit $status";

/// The profile's name, which is a part of the tests' names.
const PROFILE: &str = "caisson";

/// Runs the suite.
///
/// # Errors
/// Fails when there is no suite or no testbed; a test that fails is an exit code.
pub(crate) fn run(workspace: &Path, arguments: &ConformanceArguments) -> Result<ExitCode> {
    packages::install_missing()?;
    let suite = match suite()? {
        Ok(folder) => folder,
        Err(reason) => bail!("{reason}"),
    };
    let share = stage(workspace, &suite, arguments.images)?;
    let command = match (arguments.stress, &arguments.only) {
        (Some(seconds), _) => {
            let tests = STRESS.map(|test| pattern(&format!("{PROFILE}/Stress/{test}")));
            in_testbed(&share, &tests, seconds + STRESS_MARGIN, &[])
        }
        (None, Some(only)) => {
            let tests = [pattern(&format!("{PROFILE}/{only}"))];
            in_testbed(&share, &tests, TIME_LIMIT, &SHORT)
        }
        (None, None) => in_testbed(&share, &[pattern(PROFILE)], TIME_LIMIT, &SHORT),
    };
    passed_on(command?)
}

/// The suite for `cargo verify`, or why it is not run.
///
/// # Errors
/// Fails when its files cannot be written.
pub(crate) fn for_verify(workspace: &Path) -> Result<Result<process::Command, String>> {
    let suite = match suite()? {
        Ok(folder) => folder,
        Err(reason) => return Ok(Err(reason)),
    };
    let share = stage(workspace, &suite, false)?;
    let tests = [pattern(PROFILE)];
    Ok(Ok(in_testbed(&share, &tests, TIME_LIMIT, &SHORT)?))
}

/// The folder with the suite, or what to do to have one.
fn suite() -> Result<Result<PathBuf, String>> {
    let folder = match env::var_os(VARIABLE) {
        Some(named) => PathBuf::from(named),
        None => cache_folder()?.join("peers/shimtest"),
    };
    let missing = [PROGRAM, CONTAINERS_PROGRAM]
        .into_iter()
        .find(|name| !folder.join(name).is_file());
    Ok(match missing {
        None => Ok(folder),
        Some(name) => Err(format!(
            "there is no {name} of shimtest in {}; put it there, or name another folder in \
             {VARIABLE}",
            folder.display()
        )),
    })
}

/// Puts the programs and the profile where the testbed sees them; `images` are for the machine to mount.
fn stage(workspace: &Path, suite: &Path, images: bool) -> Result<PathBuf> {
    let share = workspace.join("target/testbed/conformance");
    fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))?;
    for name in [PROGRAM, CONTAINERS_PROGRAM] {
        let (from, to) = (suite.join(name), share.join(name));
        fs::copy(&from, &to)
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    let file = share.join(PROFILE).with_extension("json");
    fs::write(&file, profile(images))
        .with_context(|| format!("cannot write {}", file.display()))?;
    for (suite, reason) in SKIPPED {
        println!("skipped: suite {suite}: {reason}");
    }
    for (test, reason) in SKIPPED_TESTS {
        println!("skipped: {test}: {reason}");
    }
    Ok(share)
}

fn profile(images: bool) -> String {
    serde_json::json!({
        "shim_binary": "/usr/local/bin/containerd-shim-caisson-v2",
        "format_mounts": images,
        "skip": SKIPPED.map(|(suite, _)| suite),
    })
    .to_string()
}

/// The pattern of the tests of this name and below it: Go matches each part by itself.
fn pattern(name: &str) -> String {
    format!("^TestShim/{name}$").replace('/', "$/^")
}

/// One boot for all tests; it fails when one of them does.
fn in_testbed(
    share: &Path,
    tests: &[String],
    limit: u64,
    options: &[&str],
) -> Result<process::Command> {
    let mut command = again();
    command.arg("--share").arg(share);
    command.args(["--", "sh", "-c", RUN_ALL, "sh"]);
    command.args([
        format!(
            "/share/{PROGRAM} -test.v -test.timeout={limit}s -test.skip={} {}",
            pattern(&format!(
                "{PROFILE}/({})",
                SKIPPED_TESTS.map(|(test, _)| test).join("|")
            )),
            options.join(" ")
        ),
        format!("/share/{PROFILE}.json"),
        format!("/share/{CONTAINERS_PROGRAM}"),
    ]);
    command.args(tests);
    Ok(command)
}

#[cfg(test)]
#[path = "conformance_test.rs"]
mod tests;
