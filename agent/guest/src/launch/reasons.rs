//! Why the runtime library failed. Its error says little more than "failed to prepare rootfs",
//! because it comes from another process as text; what it logged before says the rest.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest reason that is kept, in bytes.
const MAX_REASON: usize = 1024;

/// The log of this process and those it forks. They share the file and its position.
#[derive(Debug)]
pub(super) struct Reasons(File);

impl Reasons {
    /// Begins to keep what the library logs as errors.
    ///
    /// # Errors
    /// When there can be no memory file, or something keeps the log already.
    pub(super) fn keep() -> io::Result<Self> {
        let file = OwnedFd::from(File::from(rustix::fs::memfd_create(
            "reasons",
            MemfdFlags::CLOEXEC,
        )?));
        let log = Log(File::from(file.try_clone()?));
        tracing::subscriber::set_global_default(log).map_err(io::Error::other)?;
        Ok(Self(File::from(file)))
    }

    /// The first error that was logged, which is the most specific one.
    #[must_use]
    pub(super) fn first(&mut self) -> Option<String> {
        self.0.seek(SeekFrom::Start(0)).ok()?;
        let mut text = String::new();
        Read::by_ref(&mut self.0)
            .take(MAX_REASON as u64 * 4)
            .read_to_string(&mut text)
            .ok()?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.chars().take(MAX_REASON).collect())
    }
}

/// Writes every error as one line.
#[derive(Debug)]
struct Log(File);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.0.replace('\n', " ");
        let _ = (&self.0).write_all(format!("{}\n", text.trim()).as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Debug, Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => {
                let rest = std::mem::take(&mut self.0);
                write!(self.0, "{value:?}{rest}")
            }
            name => write!(self.0, " ({name}: {value:?})"),
        };
    }
}
