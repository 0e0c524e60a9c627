//! What containerd names as a stream: a path or a URI.

use std::path::PathBuf;

/// The meaning of a stream's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nothing is wanted.
    Discard,
    /// A FIFO (or, for an output, an existing file) at a path.
    Fifo(PathBuf),
    /// A file to append to, made with its directories when missing.
    File(PathBuf),
    /// A program that takes both outputs on descriptors of its own.
    Program {
        /// The program.
        path: PathBuf,
        /// Its arguments: the keys and values of the query, in order.
        arguments: Vec<String>,
    },
}

impl Destination {
    /// Parses a stream's name: empty, a path, `fifo://`, `file://` or `binary://`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        if name.is_empty() || name == "/dev/null" {
            return Ok(Self::Discard);
        }
        let Some((scheme, rest)) = name.split_once("://") else {
            return Ok(Self::Fifo(absolute(name)?));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        match scheme {
            "fifo" => Ok(Self::Fifo(absolute(&decode(path)?)?)),
            "file" => Ok(Self::File(absolute(&decode(path)?)?)),
            "binary" => Ok(Self::Program {
                path: absolute(&decode(path)?)?,
                arguments: arguments(query)?,
            }),
            other => Err(format!(
                "scheme {other:?} is not supported; use a FIFO's path, fifo://, file:// or \
                 binary://"
            )),
        }
    }
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err("the path is not absolute".to_owned())
    }
}

fn arguments(query: &str) -> Result<Vec<String>, String> {
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        arguments.push(decode(&key.replace('+', " "))?);
        if !value.is_empty() {
            arguments.push(decode(&value.replace('+', " "))?);
        }
    }
    Ok(arguments)
}

/// Replaces `%41` by `A` (RFC 3986 §2.1).
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let byte = part
            .get(..2)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or("a % in it is not followed by two hexadecimal digits")?;
        bytes.push(byte);
        bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
#[path = "destination_test.rs"]
mod tests;
