//! Which world a VM lives in, and where its replica goes: asked for by the saga, answered by the engine.

use std::sync::Arc;

use crate::block::BoxFuture;
use crate::error::Result;
use crate::model::Context;
use crate::platform::{MachineRef, Source, Target};

/// A VM at its source.
#[derive(Clone)]
pub struct SourceMachine {
    /// Where it runs.
    pub source: Arc<dyn Source>,
    /// What it is called there.
    pub machine: MachineRef,
}

/// Knows the platforms; the saga knows none of them by name. Asked anew by each step that needs one, so that a change of settings or
/// credentials is seen; and for each by itself, so that what needs no source works while the source is away.
pub trait Reach: Send + Sync {
    /// Where this VM runs.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`: as the platform says. `NotFound`: the context names none.
    fn source<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<SourceMachine>>;

    /// Where its replica lives.
    ///
    /// # Errors
    /// As [`Reach::source`].
    fn target<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<Arc<dyn Target>>>;
}
