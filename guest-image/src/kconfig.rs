//! Kernel configurations: the lines of a `.config` file or of a fragment, and what became of the
//! options that were asked for.

use std::collections::BTreeMap;
use std::fmt;

/// Options and their values, as written behind the `=`; an option that is off has none.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<String, Option<String>>,
}

impl Config {
    /// Reads the lines of a `.config` file. Lines that set no option are passed over.
    pub fn parse(text: &str) -> Self {
        let values = text
            .lines()
            .filter_map(parse_line)
            .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
            .collect();
        Self { values }
    }

    /// The value of `name` (with the `CONFIG_` in front); `None` if it is off or unknown.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_deref()
    }

    /// Whether `name` is compiled in. A module does not count: a guest loads none.
    pub fn is_built_in(&self, name: &str) -> bool {
        self.value(name) == Some("y")
    }

    /// All options named, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// The options of `self` that `result` has not as asked.
    pub fn unmet_in(&self, result: &Self) -> Vec<Unmet> {
        self.iter()
            .filter(|(name, asked)| result.value(name) != *asked)
            .map(|(name, asked)| Unmet {
                name: name.to_owned(),
                asked: asked.map(str::to_owned),
                got: result.value(name).map(str::to_owned),
            })
            .collect()
    }
}

/// Reads one line: `CONFIG_X=value` or `# CONFIG_X is not set`.
pub(crate) fn parse_line(line: &str) -> Option<(&str, Option<&str>)> {
    let valid = |name: &str| {
        name.strip_prefix("CONFIG_").is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    };
    if let Some(name) = line
        .strip_prefix("# ")
        .and_then(|rest| rest.strip_suffix(" is not set"))
    {
        return valid(name).then_some((name, None));
    }
    let (name, value) = line.split_once('=')?;
    valid(name).then_some((name, Some(value)))
}

/// An option that the kernel's configuration did not take as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The option, with the `CONFIG_` in front.
    pub name: String,
    /// The value asked for; `None` for off.
    pub asked: Option<String>,
    /// The value it has; `None` for off, or if this kernel does not know it.
    pub got: Option<String>,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "off".to_owned());
        write!(
            f,
            "{} was asked to be {} and is {}",
            self.name,
            show(&self.asked),
            show(&self.got)
        )
    }
}

#[cfg(test)]
#[path = "kconfig_test.rs"]
mod tests;
