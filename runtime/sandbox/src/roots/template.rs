//! The places of other mounts in a path, as containerd's mount manager writes them (docs/mounts.md):
//! `{{ mount 0 }}/upper` is a directory of the first mount, `{{ overlay 0 2 }}` are the first three.

use super::Form;
use crate::{ErrorKind, SandboxError};

/// A directory of an earlier mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the mount.
    pub(crate) mount: usize,
    /// The way in it, without a slash at the beginning; empty for its top.
    pub(crate) path: String,
}

/// A directory in a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// One of an earlier mount.
    Place(Place),
    /// One of the host.
    OnHost(String),
}

/// The directories in a list that colons separate.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a template that is not understood.
pub(crate) fn parts(form: &Form<'_>, text: &str) -> Result<Vec<Part>, SandboxError> {
    parse(text).ok_or_else(|| {
        let problem = format!(
            "{text:?} is not understood: of what containerd fills in, \"mount N\" and \"overlay N N\" \
             are"
        );
        form.error(ErrorKind::InvalidArgument, &problem)
    })
}

fn parse(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(inner) = rest.strip_prefix("{{") else {
            // No template has a colon, and no directory of the host that matters here has braces.
            let (path, after) = rest.split_once(':').unwrap_or((rest, ""));
            if path.contains("{{") {
                return None;
            }
            parts.push(Part::OnHost(path.to_owned()));
            rest = after;
            continue;
        };
        let (template, after) = inner.split_once("}}")?;
        let (path, after) = after.split_once(':').unwrap_or((after, ""));
        let words: Vec<&str> = template.split_whitespace().collect();
        match words[..] {
            ["mount", number] => parts.push(Part::Place(Place {
                mount: number.parse().ok()?,
                path: below(path)?,
            })),
            ["overlay", first, last] if path.is_empty() => {
                parts.extend(range(first.parse().ok()?, last.parse().ok()?)?);
            }
            _ => return None,
        }
        rest = after;
    }
    Some(parts)
}

/// Mounts from the one number to the other, whichever is higher.
fn range(first: usize, last: usize) -> Option<Vec<Part>> {
    if first.max(last) > caisson_protocol::MAX_ROOT_MOUNTS {
        return None;
    }
    let place = |mount| {
        Part::Place(Place {
            mount,
            path: String::new(),
        })
    };
    Some(if first <= last {
        (first..=last).map(place).collect()
    } else {
        (last..=first).rev().map(place).collect()
    })
}

/// A path below a mount, in plain words: nothing in it means something to overlayfs or leads upwards.
fn below(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some(String::new());
    }
    let path = path.strip_prefix('/')?;
    let plain = |word: &str| {
        !word.is_empty()
            && word != "."
            && word != ".."
            && !word.contains([',', '\\', '{', '}', '\0'])
    };
    path.split('/').all(plain).then(|| path.to_owned())
}
