//! The points of a debug build.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::Point;
use crate::error::TaskError;

/// Annotation of the container: `POINT=ACTION`, several separated by commas. Each action is done
/// once, at the first pass.
const ANNOTATION: &str = "caisson.fail-points";
/// File in the bundle to which the name of each point that acts is added, before it acts: a test
/// that waits for it needs no guess about time.
const PASSED: &str = "fail-points";

/// The points and their names in the annotation.
const POINTS: [(Point, &str); 12] = [
    (Point::ShimBeforeListen, "shim-before-listen"),
    (Point::ShimAfterListen, "shim-after-listen"),
    (Point::CreateBeforeVm, "create-before-vm"),
    (Point::CreateAfterVm, "create-after-vm"),
    (Point::CreateAfterContainer, "create-after-container"),
    (Point::CreateBeforeAnswer, "create-before-answer"),
    (Point::Start, "start"),
    (Point::Exec, "exec"),
    (Point::Kill, "kill"),
    (Point::DeleteBeforeGuest, "delete-before-guest"),
    (Point::DeleteAfterGuest, "delete-after-guest"),
    (Point::Shutdown, "shutdown"),
];

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The call stands still for so long; the rest of the shim does not.
    Delay(Duration),
    /// The call fails.
    Error,
    /// SIGKILL for this process.
    Kill,
}

/// Why an annotation was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FailPointError {
    /// Something without a `=`.
    #[error("annotation {ANNOTATION}: {0:?} is not POINT=ACTION; separate several by commas")]
    Form(String),
    /// An unknown point.
    #[error("annotation {ANNOTATION}: there is no point {0:?}; there are {names}", names = names())]
    Point(String),
    /// An unknown action.
    #[error(
        "annotation {ANNOTATION}: {0:?} is not an action; there are delay(MILLISECONDS), error \
         and kill"
    )]
    Action(String),
}

/// The points of a shim that do something.
#[derive(Debug, Default)]
pub(crate) struct FailPoints(Mutex<Vec<Armed>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Armed {
    point: Point,
    action: Action,
    passed: PathBuf,
}

impl FailPoints {
    /// Takes the points from a container's annotations.
    ///
    /// # Errors
    /// See [`FailPointError`].
    pub(crate) fn arm(
        &self,
        annotations: &HashMap<String, String>,
        bundle: &Path,
    ) -> Result<(), FailPointError> {
        let Some(text) = annotations.get(ANNOTATION) else {
            return Ok(());
        };
        let passed = bundle.join(PASSED);
        let armed = text
            .split(',')
            .map(|word| {
                let word = word.trim();
                let parts = word.split_once('=');
                let (point, action) = parts.ok_or_else(|| FailPointError::Form(word.to_owned()))?;
                Ok(Armed {
                    point: point_named(point)?,
                    action: action.parse()?,
                    passed: passed.clone(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(armed);
        Ok(())
    }

    /// Passes a point.
    ///
    /// # Errors
    /// [`TaskError::Internal`] when the point is to fail.
    pub(crate) async fn pass(&self, point: Point) -> Result<(), TaskError> {
        if let Some(delay) = self.act(point)? {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    /// Passes a point where nothing else goes on.
    ///
    /// # Errors
    /// As [`FailPoints::pass`].
    pub(crate) fn pass_blocking(&self, point: Point) -> Result<(), TaskError> {
        if let Some(delay) = self.act(point)? {
            std::thread::sleep(delay);
        }
        Ok(())
    }

    /// Does what can be done at once and returns how long to wait.
    fn act(&self, point: Point) -> Result<Option<Duration>, TaskError> {
        let armed = {
            let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(index) = points.iter().position(|armed| armed.point == point) else {
                return Ok(None);
            };
            points.remove(index)
        };
        let name = name(point);
        let failed = |what: &str| TaskError::Internal(format!("fail point {name}{what}"));
        note(&armed.passed, name).map_err(|error| failed(&format!(" not noted: {error}")))?;
        match armed.action {
            Action::Delay(delay) => Ok(Some(delay)),
            Action::Error => Err(failed("")),
            Action::Kill => {
                let killed = kill_process(getpid(), Signal::KILL);
                Err(failed(&format!(" survived: {killed:?}")))
            }
        }
    }
}

fn note(file: &Path, name: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{name}\n").as_bytes())
}

fn name(point: Point) -> &'static str {
    let found = POINTS.iter().find(|(known, _)| *known == point);
    found.map_or("", |(_, name)| name)
}

fn names() -> String {
    POINTS.map(|(_, name)| name).join(", ")
}

fn point_named(text: &str) -> Result<Point, FailPointError> {
    let found = POINTS.iter().find(|(_, name)| *name == text);
    found
        .map(|(point, _)| *point)
        .ok_or_else(|| FailPointError::Point(text.to_owned()))
}

impl FromStr for Action {
    type Err = FailPointError;

    fn from_str(text: &str) -> Result<Self, FailPointError> {
        let delay = text
            .strip_prefix("delay(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|number| number.parse().ok());
        match (text, delay) {
            ("error", _) => Ok(Self::Error),
            ("kill", _) => Ok(Self::Kill),
            (_, Some(milliseconds)) => Ok(Self::Delay(Duration::from_millis(milliseconds))),
            _ => Err(FailPointError::Action(text.to_owned())),
        }
    }
}

#[cfg(test)]
#[path = "armed_test.rs"]
mod tests;
