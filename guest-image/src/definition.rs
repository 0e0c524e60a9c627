//! What the kernel's own Kconfig files say about an option: where it is defined, and what it depends
//! on. Read only to explain why an option could not be set, so it need not be exact: a dependency
//! found here is a likely one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kconfig::Config;

/// Files that include one another deeper than this do so in a circle.
const MAX_DEPTH: usize = 16;

/// All Kconfig files of a source tree that a kernel for x86 may use.
#[derive(Debug, Default)]
pub struct KconfigFiles {
    /// Paths relative to the tree, and texts.
    files: Vec<(PathBuf, String)>,
}

/// Where an option is defined, and what it depends on.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// The file that defines it, relative to the source tree.
    pub file: PathBuf,
    /// Expressions that must hold: its own, and those of all blocks and files around it.
    pub depends_on: Vec<String>,
}

impl KconfigFiles {
    /// Reads the files of the tree at `source`. What cannot be read is passed over.
    pub fn read(source: &Path) -> Self {
        let mut files = Vec::new();
        let mut folders = vec![source.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let foreign = folder.ends_with("arch") && name != "x86";
                    if !foreign && name != "Documentation" && name != "tools" {
                        folders.push(path);
                    }
                } else if name.starts_with("Kconfig")
                    && let Ok(text) = fs::read_to_string(&path)
                {
                    let path = path.strip_prefix(source).unwrap_or(&path).to_owned();
                    files.push((path, text));
                }
            }
        }
        files.sort();
        Self { files }
    }

    /// Finds the definition of `name` (with the `CONFIG_` in front).
    pub fn definition(&self, name: &str) -> Option<Definition> {
        let symbol = name.strip_prefix("CONFIG_")?;
        let (file, mut depends_on) = self.find(&Wanted::Symbol(symbol))?;
        let mut inner = file.to_owned();
        for _ in 0..MAX_DEPTH {
            let Some((outer, around)) = self.find(&Wanted::Source(&inner.to_string_lossy())) else {
                break;
            };
            inner = outer.to_owned();
            depends_on.extend(around);
        }
        Some(Definition {
            file: file.to_owned(),
            depends_on,
        })
    }

    /// The first file that has what is wanted, with its conditions.
    fn find(&self, wanted: &Wanted<'_>) -> Option<(&Path, Vec<String>)> {
        self.files
            .iter()
            .find_map(|(path, text)| Some((path.as_path(), conditions(text, wanted)?)))
    }
}

impl Definition {
    /// The options in its dependencies that are off in `config`, with the `CONFIG_` in front. Of
    /// alternatives, none is named if one holds.
    pub fn missing_in(&self, config: &Config) -> Vec<String> {
        let mut missing = Vec::new();
        for part in self.depends_on.iter().flat_map(|all| all.split("&&")) {
            let alternatives: Vec<&str> = part
                .split("||")
                .map(|word| word.trim_matches([' ', '\t', '(', ')']))
                .collect();
            let is_on = |symbol: &str| config.value(&format!("CONFIG_{symbol}")).is_some();
            let holds = |word: &&str| match word.strip_prefix('!') {
                Some(negated) => !is_on(negated),
                None => is_on(word),
            };
            if alternatives.iter().any(holds) {
                continue;
            }
            // What is no plain symbol (a comparison, a macro) cannot be judged here.
            for symbol in alternatives
                .into_iter()
                .filter(|word| word.chars().all(is_symbol))
            {
                let name = format!("CONFIG_{symbol}");
                if !missing.contains(&name) {
                    missing.push(name);
                }
            }
        }
        missing
    }
}

fn is_symbol(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

/// What is looked for in a file.
enum Wanted<'a> {
    /// The definition of an option.
    Symbol(&'a str),
    /// The line that includes another file.
    Source(&'a str),
}

/// A block that is open: what closes it, and its conditions.
struct Block<'a> {
    end: &'static str,
    conditions: Vec<&'a str>,
}

/// The conditions under which what is wanted stands in `text`; `None` if it does not.
fn conditions(text: &str, wanted: &Wanted<'_>) -> Option<Vec<String>> {
    let mut open: Vec<Block<'_>> = Vec::new();
    let mut found: Option<Vec<String>> = None;
    // Whether `depends on` here belongs to the innermost menu, not to an option.
    let mut in_head = false;
    for line in text.lines() {
        let words = line.trim();
        let (keyword, rest) = words.split_once([' ', '\t']).unwrap_or((words, ""));
        let rest = rest.trim();
        let outermost = !line.starts_with([' ', '\t']);
        if found.is_some() && outermost && !keyword.is_empty() && !keyword.starts_with('#') {
            break;
        }
        let around = || -> Vec<String> {
            let conditions = open.iter().flat_map(|block| &block.conditions);
            conditions.map(|&condition| condition.to_owned()).collect()
        };
        match keyword {
            "config" | "menuconfig" => {
                in_head = false;
                if matches!(wanted, Wanted::Symbol(symbol) if *symbol == rest) {
                    found = Some(around());
                }
            }
            "source" => {
                in_head = false;
                if matches!(wanted, Wanted::Source(path) if *path == rest.trim_matches('"')) {
                    return Some(around());
                }
            }
            "if" if outermost => open.push(Block {
                end: "endif",
                conditions: vec![rest],
            }),
            "menu" | "choice" => {
                let end = if keyword == "menu" {
                    "endmenu"
                } else {
                    "endchoice"
                };
                open.push(Block {
                    end,
                    conditions: Vec::new(),
                });
                in_head = true;
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
                } else if in_head && let Some(block) = open.last_mut() {
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
            "help" if found.is_some() => break,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
#[path = "definition_test.rs"]
mod tests;
