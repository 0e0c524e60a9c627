//! The points of a release build: none.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;

use super::Point;
use crate::error::TaskError;

/// Nothing.
#[derive(Debug, Default)]
pub(crate) struct FailPoints;

impl FailPoints {
    /// Does nothing.
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "as in a debug build"
    )]
    pub(crate) fn arm(&self, _: &HashMap<String, String>, _: &Path) -> Result<(), Infallible> {
        Ok(())
    }

    /// Does nothing.
    #[expect(
        clippy::unused_async,
        clippy::unused_self,
        reason = "as in a debug build"
    )]
    pub(crate) async fn pass(&self, _: Point) -> Result<(), TaskError> {
        Ok(())
    }

    /// Does nothing.
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "as in a debug build"
    )]
    pub(crate) fn pass_blocking(&self, _: Point) -> Result<(), TaskError> {
        Ok(())
    }
}
