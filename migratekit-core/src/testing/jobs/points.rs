//! Failpoints that remember where a job came by, and strike at one of these places.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

use crate::block::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::{Failpoints, Hook};
use crate::task::CancellationToken;

/// What happens at the chosen place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The act fails, once.
    Fail,
    /// Nothing goes on from here: the test ends the runner where it stands.
    Stand,
    /// `kill -9` of this process.
    Kill,
}

/// The environment variable that names the place at which a child process is killed: `PLACE#TIMES`.
pub const VARIABLE: &str = "MIGRATEKIT_KILL_AT";

/// A hook for failpoints.
#[derive(Debug, Default)]
pub struct Points {
    state: Mutex<State>,
    struck: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<String>,
    armed: Option<(String, Blow)>,
}

impl Points {
    /// Only remembers.
    #[must_use]
    pub fn watching() -> Arc<Self> {
        Arc::new(Points::default())
    }

    /// Strikes when `place` (`STEP/ACT/SIDE#N`: the N-th time, from 1) is reached.
    #[must_use]
    pub fn striking(place: &str, blow: Blow) -> Arc<Self> {
        let points = Points::default();
        points.with(|state| state.armed = Some((place.to_owned(), blow)));
        Arc::new(points)
    }

    /// Kills this process at the place that the environment names, if it names one.
    #[must_use]
    pub fn of_environment() -> Arc<Self> {
        std::env::var(VARIABLE).map_or_else(|_| Points::watching(), |place| Points::striking(&place, Blow::Kill))
    }

    /// For a runner's configuration.
    #[must_use]
    pub fn failpoints(self: &Arc<Self>) -> Failpoints {
        Failpoints::new(Arc::clone(self) as Arc<dyn Hook>)
    }

    /// The places that were reached, each with its number: `STEP/ACT/SIDE#N`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.with(|state| state.seen.clone())
    }

    /// Ends when the blow fell.
    #[must_use]
    pub fn struck(&self) -> &CancellationToken {
        &self.struck
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Numbers the place, and tells whether the blow falls here.
    fn pass(&self, place: &str) -> Option<Blow> {
        self.with(|state| {
            let times = state.seen.iter().filter(|seen| seen.split('#').next() == Some(place)).count();
            let numbered = format!("{place}#{}", times + 1);
            state.seen.push(numbered.clone());
            match state.armed.take() {
                Some((armed, blow)) if armed == numbered => Some(blow),
                armed => {
                    state.armed = armed;
                    None
                }
            }
        })
    }
}

impl Hook for Points {
    fn reached<'a>(&'a self, place: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(blow) = self.pass(place) else { return Ok(()) };
            self.struck.cancel();
            match blow {
                Blow::Fail => Err(Error::new(ErrorKind::Io, "pass a failpoint", "the test wants it to fail here").with("place", place)),
                Blow::Stand => std::future::pending().await,
                Blow::Kill => {
                    let _ = kill_process(getpid(), Signal::KILL);
                    std::future::pending().await
                }
            }
        })
    }
}
