//! What docs/security.md says of the code is what the code is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A test's name is a sentence; what has fewer words is something else.
const WORDS: usize = 4;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn security() -> String {
    fs::read_to_string(workspace().join("docs/security.md")).unwrap()
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_test_that_it_names_is_there() {
    let text = security();
    let named: Vec<&str> = text
        .split('`')
        // What stands between two of them.
        .skip(1)
        .step_by(2)
        .filter(|name| name.split('_').count() >= WORDS)
        .filter(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
        .filter(|name| name.bytes().all(|byte| !byte.is_ascii_uppercase()))
        .collect();
    assert!(!named.is_empty());
    let sources: String = sources(&workspace())
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for name in named {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "there is no test {name}"
        );
    }
}

#[test]
fn it_counts_what_is_unsafe() {
    let mut counted = BTreeMap::new();
    for package in [
        "agent/bpf",
        "agent/guest",
        "runtime/sandbox",
        "runtime/shim",
        "vmm/fs",
        "vmm/jail",
        "vmm/machine",
    ] {
        let files = sources(&workspace().join(package).join("src"));
        let count: usize = files
            .iter()
            .filter(|file| !is_of_tests(file))
            .map(|file| unsafe_in(file))
            .sum();
        counted.insert(package, count);
    }
    let text = security();
    for (package, count) in counted {
        let row = format!("| `{package}` | {count} |");
        assert!(text.contains(&row), "docs/security.md needs the row: {row}");
    }
}

fn is_of_tests(file: &Path) -> bool {
    let parts = file.iter().map(|part| part.to_string_lossy());
    parts
        .map(|part| part.trim_end_matches(".rs").to_owned())
        .any(|part| part.ends_with("_test") || part.starts_with("test_"))
}

/// Blocks, functions and implementations.
fn unsafe_in(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .map(|code| {
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .map(|word| code.matches(word).count())
                .sum::<usize>()
        })
        .sum()
}
