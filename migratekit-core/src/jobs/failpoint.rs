//! Failpoints: named places before and after every commit and every effect, where a test may stop the world.
//!
//! They are alive only with feature `testing`, and only in a runner that was given a [`Hook`]; elsewhere reaching one is nothing. A place
//! is named `STEP/ACT/SIDE`: `snapshotting/make/after` lies between the world's answer and the commit of the effect's id.

/// What stands on either side of an act: the moment before it, or the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Before,
    After,
}

#[cfg(feature = "testing")]
mod alive {
    use std::fmt;
    use std::sync::Arc;

    use super::Side;
    use crate::block::BoxFuture;
    use crate::error::Result;

    /// Is asked at each place. An error fails the act there (only within a step's own acts); a future that never ends is a crash.
    pub trait Hook: Send + Sync {
        /// The place was reached.
        fn reached<'a>(&'a self, place: &'a str) -> BoxFuture<'a, Result<()>>;
    }

    /// The hook of a runner, if a test gave one.
    #[derive(Clone, Default)]
    pub struct Failpoints(Option<Arc<dyn Hook>>);

    impl fmt::Debug for Failpoints {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(if self.0.is_some() { "Failpoints(set)" } else { "Failpoints" })
        }
    }

    impl Failpoints {
        /// Failpoints that ask `hook`.
        #[must_use]
        pub fn new(hook: Arc<dyn Hook>) -> Self {
            Failpoints(Some(hook))
        }

        pub(in crate::jobs) async fn reach(&self, step: &str, act: &str, side: Side) -> Result<()> {
            let Some(hook) = &self.0 else { return Ok(()) };
            let side = match side {
                Side::Before => "before",
                Side::After => "after",
            };
            hook.reached(&format!("{step}/{act}/{side}")).await
        }
    }
}

#[cfg(not(feature = "testing"))]
mod alive {
    use super::Side;
    use crate::error::Result;

    /// No failpoints: built without feature `testing`.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Failpoints;

    impl Failpoints {
        #[allow(clippy::unused_self, clippy::unused_async, reason = "the shape of the living ones")]
        pub(in crate::jobs) async fn reach(&self, _step: &str, _act: &str, _side: Side) -> Result<()> {
            Ok(())
        }
    }
}

pub use alive::Failpoints;
#[cfg(feature = "testing")]
pub use alive::Hook;
