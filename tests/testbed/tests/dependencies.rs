//! What is built in: under which licences, and whether anything is known against it.
//!
//! Known faults are read from a checkout of RustSec's database (one file for each, in
//! `crates/<name>/`), which the environment variable `CAISSON_ADVISORIES` names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use semver::{Version, VersionReq};
use serde::Deserialize;
use spdx::{Expression, LicenseReq, Licensee};

/// Licences under which anything may become part of a program under the Apache License 2.0.
const LICENCES: [&str; 8] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    // Only of files, not of what they are linked to. pathrs of libcontainer.
    "MPL-2.0",
    // Tables of Unicode.
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages that do not say it in the usual way, and what their licence file says.
const SAID_ELSEWHERE: [(&str, &str); 1] = [("rust-criu", "Apache-2.0")];

/// What is known and does not matter here.
const HARMLESS: [(&str, &str); 4] = [
    (
        "RUSTSEC-2021-0145",
        "atty reads badly aligned memory on Windows only",
    ),
    (
        "RUSTSEC-2024-0375",
        "atty has no maintainer; it only asks whether there is a terminal",
    ),
    (
        "RUSTSEC-2023-0089",
        "atomic-polyfill has no maintainer; it is empty on x86-64",
    ),
    (
        "RUSTSEC-2024-0436",
        "paste has no maintainer; it makes names while compiling",
    ),
];

/// What `cargo metadata` says of the lock file.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: Version,
    license: Option<String>,
    /// Where it comes from; nowhere, if it is ours.
    source: Option<String>,
}

/// The head of an advisory.
#[derive(Deserialize)]
struct Advisory {
    advisory: Fault,
    versions: Versions,
}

#[derive(Deserialize)]
struct Fault {
    id: String,
    withdrawn: Option<toml::Value>,
}

#[derive(Deserialize)]
struct Versions {
    patched: Vec<VersionReq>,
    #[serde(default)]
    unaffected: Vec<VersionReq>,
}

fn dependencies() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        // What is for other platforms need not be here.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata.packages.into_iter();
    let found: Vec<_> = packages
        .filter(|package| package.source.is_some())
        .collect();
    assert!(!found.is_empty());
    found
}

#[test]
fn every_dependency_has_a_licence_that_lets_us_ship_it() {
    for Package {
        name,
        version,
        license,
        ..
    } in dependencies()
    {
        let elsewhere = SAID_ELSEWHERE.iter().find(|(package, _)| *package == name);
        let license = elsewhere
            .map(|(_, license)| (*license).to_owned())
            .or(license);
        let license = license.unwrap_or_else(|| panic!("{name} {version} has no licence"));
        // Older packages write a slash for "or".
        let license = license.replace('/', " OR ");
        let expression =
            Expression::parse(&license).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            expression.evaluate(allowed),
            "{name} {version} is under {license}"
        );
    }
}

fn allowed(wanted: &LicenseReq) -> bool {
    LICENCES
        .iter()
        .any(|licence| Licensee::parse(licence).unwrap().satisfies(wanted))
}

#[test]
fn nothing_is_known_against_a_dependency() {
    let Some(database) = env::var_os("CAISSON_ADVISORIES").map(PathBuf::from) else {
        println!("skipped: CAISSON_ADVISORIES names no checkout of RustSec's database");
        return;
    };
    let database = database.join("crates");
    assert!(database.is_dir(), "there is no {}", database.display());
    let mut seen = 0;
    for Package { name, version, .. } in dependencies() {
        for Advisory { advisory, versions } in advisories(&database.join(&name)) {
            seen += 1;
            let out_of_it = versions.patched.iter().chain(&versions.unaffected);
            let affected = !out_of_it
                .into_iter()
                .any(|versions| versions.matches(&version));
            let harmless = HARMLESS.iter().any(|(id, _)| *id == advisory.id);
            assert!(
                !affected || harmless || advisory.withdrawn.is_some(),
                "{} is of {name} {version}",
                advisory.id
            );
        }
    }
    println!("{seen} advisories were looked at");
    // Some dependency had a fault once: a database without that is none.
    assert_ne!(seen, 0);
}

/// The advisories in a folder, if there is one.
fn advisories(folder: &Path) -> Vec<Advisory> {
    let files = fs::read_dir(folder).into_iter().flatten();
    files
        .map(|file| {
            let file = file.unwrap().path();
            let text = fs::read_to_string(&file).unwrap();
            // TOML between fences, then prose.
            let head = text
                .split("```")
                .nth(1)
                .and_then(|head| head.strip_prefix("toml"));
            let head = head.unwrap_or_else(|| panic!("{} has no head", file.display()));
            toml::from_str(head).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        })
        .collect()
}
