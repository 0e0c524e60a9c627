//! The command line, in the syntax of Go's `flag` package as containerd uses it: one or two
//! dashes, `-flag value` or `-flag=value`, booleans without a value, the action after the flags.

use std::path::PathBuf;

/// What containerd asks this program to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `start`: bring up the shim for a container and print its address.
    Start,
    /// `delete`: remove what is left of a container and print how it ended.
    Delete,
    /// `clean-up`: how `delete` runs this program, to be done however long it takes.
    CleanUp,
    /// No action: be the shim. `start` runs the program this way with the listening socket as
    /// standard input.
    Serve,
    /// `-info`: describe the runtime.
    Info,
    /// `-v`: print the version for people.
    Version,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    /// What to do.
    pub(crate) action: Action,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The container for which `start` or `delete` was called.
    pub(crate) id: String,
    /// containerd's gRPC socket; only hashed into the name of our own socket.
    pub(crate) address: String,
    /// The bundle directory; the working directory when empty.
    pub(crate) bundle: PathBuf,
    /// Whether to log details.
    pub(crate) debug: bool,
}

/// Why a command line was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// A flag this program does not have.
    #[error("unknown flag -{0}; this program is started by containerd, see -v")]
    UnknownFlag(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    MissingValue(String),
    /// A boolean flag with a value that is not one.
    #[error("flag -{flag} is true or false, not {value:?}")]
    NotBoolean {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
    /// An action this program does not have.
    #[error("unknown action {0:?}: the actions are start and delete")]
    UnknownAction(String),
    /// More words than flags and an action.
    #[error("unexpected argument {0:?} after the action")]
    Surplus(String),
    /// An identifier that could leave the directory it names.
    #[error(
        "{flag} {value:?} is not an identifier: use 1 to 255 letters, digits, dots, dashes and \
         underscores, not starting with a dot"
    )]
    NotIdentifier {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
}

impl Args {
    /// Parses the words after the program's name.
    ///
    /// # Errors
    /// See [`ArgsError`].
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut args = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: PathBuf::new(),
            debug: false,
        };
        let mut info = false;
        let mut version = false;
        let mut words = words.into_iter();
        let mut action = None;
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                action = Some(word);
                break;
            };
            if flag == "-" {
                action = words.next();
                break;
            }
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => args.debug = boolean(name, value.as_deref())?,
                "info" => info = boolean(name, value.as_deref())?,
                "v" | "version" => version = boolean(name, value.as_deref())?,
                "namespace" => args.namespace = text(name, value, &mut words)?,
                "id" => args.id = text(name, value, &mut words)?,
                "address" => args.address = text(name, value, &mut words)?,
                "bundle" => args.bundle = text(name, value, &mut words)?.into(),
                // Part of the contract, and of no use to us: events go over ttrpc, and the
                // addresses of sockets are ours to choose.
                "publish-binary" | "socket" | "debug-socket" => {
                    text(name, value, &mut words)?;
                }
                _ => return Err(ArgsError::UnknownFlag(name.to_owned())),
            }
        }
        if let Some(word) = words.next() {
            return Err(ArgsError::Surplus(word));
        }
        args.action = match action.as_deref() {
            _ if version => Action::Version,
            _ if info => Action::Info,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            Some("clean-up") => Action::CleanUp,
            None => Action::Serve,
            Some(other) => return Err(ArgsError::UnknownAction(other.to_owned())),
        };
        if !matches!(args.action, Action::Info | Action::Version) {
            // Both become parts of paths that this process makes and removes as root.
            require_identifier("-namespace", &args.namespace)?;
            require_identifier("-id", &args.id)?;
        }
        Ok(args)
    }
}

/// Whether `text` may be one component of a path: 1 to 255 characters of `[A-Za-z0-9._-]`, not
/// starting with a dot. containerd's own rule for identifiers is narrower.
pub(crate) fn is_identifier(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn require_identifier(flag: &'static str, value: &str) -> Result<(), ArgsError> {
    if is_identifier(value) {
        return Ok(());
    }
    Err(ArgsError::NotIdentifier {
        flag,
        value: value.to_owned(),
    })
}

fn text(
    name: &str,
    value: Option<String>,
    words: &mut impl Iterator<Item = String>,
) -> Result<String, ArgsError> {
    value
        .or_else(|| words.next())
        .ok_or_else(|| ArgsError::MissingValue(name.to_owned()))
}

fn boolean(name: &str, value: Option<&str>) -> Result<bool, ArgsError> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(ArgsError::NotBoolean {
            flag: name.to_owned(),
            value: other.to_owned(),
        }),
    }
}

#[cfg(test)]
#[path = "args_test.rs"]
mod tests;
