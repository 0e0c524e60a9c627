//! The machine's own apt configuration (sources.list(5)), for the mirror everything comes from.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where Debian's archive keys lie when a source does not name its own.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One source of binary packages, for one URI and one suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AptSource {
    /// Base of the repository.
    pub uri: String,
    /// Suite or codename, as written.
    pub suite: String,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// Keyring path, fingerprint or embedded key, as written.
    pub signed_by: Option<String>,
}

/// The mirror of Debian's main archive that this machine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    uri: String,
    signed_by: String,
}

impl Mirror {
    /// Finds it in /etc/apt.
    ///
    /// # Errors
    /// When no enabled source offers component main of this machine's Debian release.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .unwrap_or_default()
            .trim_matches('"');
        let sources = read(Path::new("/etc/apt"))?;
        match Self::choose(&sources, codename) {
            Some(mirror) => Ok(mirror),
            None => bail!(
                "no Debian mirror: none of the {} package sources in /etc/apt offers component \
                 main of Debian {codename}; add one to /etc/apt/sources.list.d (sources.list(5))",
                sources.len()
            ),
        }
    }

    fn choose(sources: &[AptSource], codename: &str) -> Option<Self> {
        let aliases = ["stable", "testing", "unstable", "sid"];
        let candidates = sources.iter().filter(|source| {
            (source.suite == codename || aliases.contains(&source.suite.as_str()))
                && source.components.iter().any(|name| name == "main")
                && !source.uri.starts_with("cdrom:")
        });
        // Other vendors also name their suites after Debian's; their keys are their own.
        let rank = |source: &&AptSource| match &source.signed_by {
            Some(key) if key.contains("debian-archive") => 0,
            None => 1,
            Some(_) => 2,
        };
        let source = candidates.min_by_key(rank)?;
        Some(Self {
            uri: source.uri.clone(),
            signed_by: source
                .signed_by
                .clone()
                .unwrap_or_else(|| DEBIAN_KEYRING.into()),
        })
    }

    /// The text of a deb822 source of `suite` from this mirror.
    #[must_use]
    pub(crate) fn source(&self, suite: &str) -> String {
        format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {}\n",
            self.uri, self.signed_by
        )
    }
}

fn read(apt: &Path) -> Result<Vec<AptSource>> {
    let mut sources = Vec::new();
    if let Ok(text) = fs::read_to_string(apt.join("sources.list")) {
        sources.extend(parse_one_line(&text));
    }
    let parts = apt.join("sources.list.d");
    let mut files: Vec<_> = match fs::read_dir(&parts) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .with_context(|| format!("reading {}", parts.display()))?,
        Err(_) => Vec::new(),
    };
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&text)),
            Some("list") => sources.extend(parse_one_line(&text)),
            _ => {}
        }
    }
    Ok(sources)
}

/// Reads the one-line style: `deb [options] uri suite [component…]`.
fn parse_one_line(text: &str) -> Vec<AptSource> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb ")
            .or_else(|| line.strip_prefix("deb\t"))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some(split) => split,
                None => continue,
            },
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        sources.push(AptSource {
            uri,
            suite,
            components: words.collect(),
            signed_by: options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="))
                .map(str::to_owned),
        });
    }
    sources
}

/// Reads the deb822 style: stanzas of fields, every URI with every suite.
fn parse_deb822(text: &str) -> Vec<AptSource> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    // One empty line more ends the last stanza.
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            stanza(&fields, &mut sources);
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: &[(String, String)], sources: &mut Vec<AptSource>) {
    let field = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    let words = |wanted: &str| -> Vec<String> {
        field(wanted)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let disabled = field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if disabled || !words("types").iter().any(|kind| kind == "deb") {
        return;
    }
    for uri in words("uris") {
        for suite in words("suites") {
            sources.push(AptSource {
                uri: uri.clone(),
                suite,
                components: words("components"),
                signed_by: field("signed-by").map(str::to_owned),
            });
        }
    }
}

#[cfg(test)]
#[path = "apt_source_test.rs"]
mod tests;
