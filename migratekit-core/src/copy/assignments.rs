//! Whose the exports are that a tunnel serves (data-safety 5): each VMA sees and opens those that are assigned to it, and no others.
//!
//! ```text
//!  VMA ── stream with its Peer ─▶ TunnelExports ── view of this VMA ─▶ nbd server: LIST, INFO, GO
//!                                                   └─ ExportOwners: whose is it?
//! ```
//!
//! [`ExportOwners`] is asked for each name; a catalog may answer it. [`Assignments`] is the table in memory: what an operator named on a
//! command line, or what a running job was given. When an assignment ends, [`super::TunnelExports::review`] closes who still uses it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::BoxFuture;
use crate::error::Result;
use crate::nbd::server::View;
use crate::tunnels::{Peer, Vma};

/// Who may use which export.
pub trait ExportOwners: Send + Sync {
    /// Whether `export` is assigned to `vma` now. `job` is the one that the name carries, not proven yet; `None` for a plain name, and
    /// when exports are listed: then any job's counts.
    ///
    /// # Errors
    /// When it cannot be told: nothing new is opened then, and what is open stays open.
    fn owns<'a>(&'a self, vma: &'a Vma, export: &'a str, job: Option<&'a str>) -> BoxFuture<'a, Result<bool>>;

    /// A VMA named an export that is served and not its own. For the audit; must not wait.
    fn foreign(&self, refused: &ForeignExport) {
        let _ = refused;
    }
}

/// A VMA named an export that is another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignExport {
    /// Which VMA.
    pub peer: Peer,
    /// The export's plain name.
    pub export: String,
}

impl fmt::Display for ForeignExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} asked for the export {}, which is not its own", self.peer, self.export)
    }
}

/// Hears of each [`ForeignExport`]; must not wait.
pub type ForeignObserver = Arc<dyn Fn(&ForeignExport) + Send + Sync>;

/// A VMA's name, an export's, and the job if it is one's.
type Assignment = (String, String, Option<String>);

/// Assignments in memory. Clones are the same table.
#[derive(Clone, Default)]
pub struct Assignments {
    table: Arc<Mutex<BTreeSet<Assignment>>>,
    observer: Option<ForeignObserver>,
}

impl fmt::Debug for Assignments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Assignments").field(&*self.lock()).finish()
    }
}

impl Assignments {
    /// An empty table: nothing is anybody's.
    #[must_use]
    pub fn new() -> Self {
        Assignments::default()
    }

    /// These exports are one VMA's.
    #[must_use]
    pub fn of(vma: &str, exports: &[&str]) -> Self {
        let table = Assignments::new();
        for export in exports {
            table.assign(vma, export);
        }
        table
    }

    /// Tells `observer` of each refusal, besides the log.
    #[must_use]
    pub fn observed(mut self, observer: ForeignObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Assignment>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `export` is `vma`'s, whatever the job.
    pub fn assign(&self, vma: &str, export: &str) {
        self.lock().insert((vma.to_owned(), export.to_owned(), None));
    }

    /// `export` is `vma`'s while `job` runs: until [`Assignments::end_job`]. A name that carries another job does not open it.
    pub fn assign_to_job(&self, vma: &str, export: &str, job: &str) {
        self.lock().insert((vma.to_owned(), export.to_owned(), Some(job.to_owned())));
    }

    /// Nothing is assigned by `job` any more.
    pub fn end_job(&self, job: &str) {
        self.lock().retain(|(_, _, by)| by.as_deref() != Some(job));
    }

    /// `export` is nobody's any more.
    pub fn end_export(&self, export: &str) {
        self.lock().retain(|(_, name, _)| name != export);
    }
}

impl ExportOwners for Assignments {
    fn owns<'a>(&'a self, vma: &'a Vma, export: &'a str, job: Option<&'a str>) -> BoxFuture<'a, Result<bool>> {
        let counts = |by: &Option<String>| by.is_none() || job.is_none() || by.as_deref() == job;
        let found = self.lock().iter().any(|(owner, name, by)| *owner == vma.name && name == export && counts(by));
        Box::pin(std::future::ready(Ok(found)))
    }

    fn foreign(&self, refused: &ForeignExport) {
        if let Some(observer) = &self.observer {
            observer(refused);
        }
    }
}

/// What one VMA sees of the exports.
pub(super) struct VmaView {
    pub(super) owners: Arc<dyn ExportOwners>,
    pub(super) peer: Peer,
}

impl View for VmaView {
    fn shows<'a>(&'a self, export: &'a str, job: Option<&'a str>) -> BoxFuture<'a, Result<bool>> {
        self.owners.owns(&self.peer.vma, export, job)
    }

    fn foreign(&self, export: &str) {
        let refused = ForeignExport { peer: self.peer.clone(), export: export.to_owned() };
        tracing::warn!(%refused, "an export is refused");
        self.owners.foreign(&refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn owns(table: &Assignments, vma: &str, export: &str, job: Option<&str>) -> bool {
        table.owns(&Vma { name: vma.to_owned(), reverse_port: None }, export, job).await.unwrap()
    }

    #[tokio::test]
    async fn an_export_is_its_vmas_for_its_job_and_until_the_job_ends() {
        let table = Assignments::new();
        table.assign("a", "disk");
        table.assign_to_job("a", "other", "job-1");
        table.assign_to_job("b", "other", "job-2");
        for (vma, export, job, right) in [
            ("a", "disk", None, true),
            ("a", "disk", Some("job-9"), true),
            ("b", "disk", None, false),
            ("a", "other", None, true),
            ("a", "other", Some("job-1"), true),
            ("a", "other", Some("job-2"), false),
            ("b", "other", Some("job-2"), true),
            ("c", "other", None, false),
            ("a", "none", None, false),
        ] {
            assert_eq!(owns(&table, vma, export, job).await, right, "{vma} {export} {job:?}");
        }
        table.end_job("job-1");
        assert!(!owns(&table, "a", "other", None).await && owns(&table, "b", "other", None).await);
        assert!(owns(&table, "a", "disk", None).await, "what no job assigned stays");
        table.end_export("disk");
        assert!(!owns(&table, "a", "disk", None).await);
    }
}
