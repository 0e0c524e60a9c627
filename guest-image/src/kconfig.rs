//! Kernel configurations: the lines of a `.config` file or of a fragment, and what became of the
//! options that were asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

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

/// What the kernel's own Kconfig files say about an option.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// The file that defines it, relative to the source tree.
    pub file: PathBuf,
    /// The expressions behind its `depends on`, and behind `if` at its prompt.
    pub depends_on: Vec<String>,
}

impl Definition {
    /// The options in its dependencies that are off in `config`, with the `CONFIG_` in front.
    pub fn missing_in(&self, config: &Config) -> Vec<String> {
        let mut missing = Vec::new();
        for word in self.depends_on.iter().flat_map(|expression| {
            expression.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '!'))
        }) {
            // A negated symbol is not one to switch on; a lower-case word is a constant.
            let symbol = word
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
                && word.chars().any(|c| c.is_ascii_uppercase());
            let name = format!("CONFIG_{word}");
            if symbol && config.value(&name).is_none() && !missing.contains(&name) {
                missing.push(name);
            }
        }
        missing
    }
}

/// Finds where the source tree defines `name` (with the `CONFIG_` in front). Of the files of other
/// architectures only x86's are read.
pub fn find_definition(source: &Path, name: &str) -> Option<Definition> {
    let symbol = name.strip_prefix("CONFIG_")?;
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut names: Vec<_> = fs::read_dir(&folder).ok()?.flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let path = entry.path();
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                let foreign = folder.file_name().is_some_and(|f| f == "arch") && file_name != "x86";
                if !foreign && file_name != "Documentation" && file_name != "tools" {
                    folders.push(path);
                }
            } else if file_name.starts_with("Kconfig")
                && let Ok(text) = fs::read_to_string(&path)
                && let Some(depends_on) = definition_in(&text, symbol)
            {
                return Some(Definition {
                    file: path.strip_prefix(source).unwrap_or(&path).to_owned(),
                    depends_on,
                });
            }
        }
    }
    None
}

/// The dependencies of `symbol` if `text`, a Kconfig file, defines it: its own, and the conditions
/// of the `if` and `menu` blocks that it stands in.
fn definition_in(text: &str, symbol: &str) -> Option<Vec<String>> {
    /// A block that is open: what closes it, and its conditions.
    struct Block<'a> {
        end: &'static str,
        conditions: Vec<&'a str>,
    }
    let mut open: Vec<Block<'_>> = Vec::new();
    let mut found: Option<Vec<String>> = None;
    // Whether `depends on` here belongs to the innermost menu, not to an option.
    let mut in_menu_head = false;
    for line in text.lines() {
        let line = line.trim_end();
        let (keyword, rest) = line
            .trim_start()
            .split_once([' ', '\t'])
            .unwrap_or((line.trim_start(), ""));
        let rest = rest.trim();
        let outermost = !line.starts_with([' ', '\t']);
        if outermost && found.is_some() && !keyword.is_empty() && !keyword.starts_with('#') {
            break;
        }
        match keyword {
            "config" | "menuconfig" => {
                in_menu_head = false;
                if rest == symbol {
                    let around = open.iter().flat_map(|block| &block.conditions);
                    found = Some(around.map(|&c| c.to_owned()).collect());
                }
            }
            "if" if outermost => open.push(Block {
                end: "endif",
                conditions: vec![rest],
            }),
            "menu" => {
                open.push(Block {
                    end: "endmenu",
                    conditions: Vec::new(),
                });
                in_menu_head = true;
            }
            "choice" => {
                open.push(Block {
                    end: "endchoice",
                    conditions: Vec::new(),
                });
                in_menu_head = true;
            }
            "endif" | "endmenu" | "endchoice"
                if open.last().is_some_and(|block| block.end == keyword) =>
            {
                open.pop();
            }
            "depends" => {
                let expression = rest.strip_prefix("on").unwrap_or(rest).trim();
                if let Some(depends_on) = &mut found {
                    depends_on.push(expression.to_owned());
                } else if in_menu_head && let Some(block) = open.last_mut() {
                    block.conditions.push(expression);
                }
            }
            "bool" | "tristate" | "prompt" => {
                if let (Some(depends_on), Some((_, condition))) =
                    (&mut found, rest.rsplit_once("\" if "))
                {
                    depends_on.push(condition.to_owned());
                }
            }
            "help" | "---help---" if found.is_some() => break,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
#[path = "kconfig_test.rs"]
mod tests;
