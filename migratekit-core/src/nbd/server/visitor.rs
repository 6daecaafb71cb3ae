//! Who is at the other end of a stream, where not all clients may see the same.
//!
//! A [`Visitor`] has a name for people, and may have a [`View`]: what of the server's exports exists for it. The view is asked in the
//! handshake, **before** a name is looked up, so that an export it does not show is answered as one that does not exist, and LIST is
//! silent about it. Requests in transmission do not ask it: a connection is bound to what it was admitted to, until
//! [`super::Server::review`] finds that its view does not show that any more.

use std::fmt;
use std::sync::Arc;

use crate::block::BoxFuture;
use crate::error::Result;
use crate::task::CancellationToken;

/// One client's view of the exports.
pub trait View: Send + Sync {
    /// Whether the client may know of `export`, and open it. `job` is the one its name carries beside an epoch, not proven yet; `None`
    /// for a plain name, and when exports are listed.
    ///
    /// # Errors
    /// When it cannot be told: whatever the client named is refused then, whether it exists or not.
    fn shows<'a>(&'a self, export: &'a str, job: Option<&'a str>) -> BoxFuture<'a, Result<bool>>;

    /// The client named an export that is served and that it is not shown. For the audit; must not wait.
    fn foreign(&self, export: &str);
}

/// A client, as whoever hands in its stream knows it. A text is one that sees everything.
#[derive(Clone)]
pub struct Visitor {
    pub(super) name: String,
    pub(super) view: Option<Arc<dyn View>>,
    pub(super) gone: CancellationToken,
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("name", &self.name).field("sees_all", &self.view.is_none()).finish_non_exhaustive()
    }
}

impl<T: Into<String>> From<T> for Visitor {
    fn from(name: T) -> Self {
        Visitor { name: name.into(), view: None, gone: CancellationToken::new() }
    }
}

impl Visitor {
    /// For this one only what `view` shows exists.
    #[must_use]
    pub fn seeing(mut self, view: Arc<dyn View>) -> Self {
        self.view = Some(view);
        self
    }

    /// When `gone` is cancelled its connection is closed at once: nothing more is read from it or answered, and what was begun ends.
    #[must_use]
    pub fn until(mut self, gone: CancellationToken) -> Self {
        self.gone = gone;
        self
    }
}
