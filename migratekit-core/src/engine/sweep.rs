//! What interrupted passes left at a source, removed by request. The next pass would do it too; this is for who wants no next pass.

use serde::Serialize;

use super::Contexts;
use super::reach::Sites;
use crate::error::{Error, ErrorKind, Result};
use crate::replication::Reach;

/// What a sweep of a source did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SweptSource {
    /// The VM.
    pub vm_name: String,
    /// Snapshots of ours that were removed.
    pub removed: Vec<String>,
    /// Snapshots of others; they are theirs to remove.
    pub foreign: Vec<String>,
}

impl Contexts {
    /// Removes every snapshot of ours, complete or not, from the machine of the VM of this id or name. Those of others are listed.
    ///
    /// # Errors
    /// Those of [`Contexts::find`]; [`ErrorKind::Busy`] while a job holds the VM; those of the source, after which it may be repeated.
    pub async fn sweep(&self, name_or_id: &str) -> Result<SweptSource> {
        const SWEEP: &str = "sweep the source of a VM";
        let context = self.find(name_or_id).await?;
        let at = Sites::of(self.engine.store()).source(&context).await?;
        // First the list, then the question: a job that begins after it makes its snapshot after it.
        let found = at.source.snapshots(&at.machine).await?;
        let id = &context.id;
        if let Some(job) = self.engine.store().read(SWEEP, |tx| async move { tx.jobs().active_of(id).await }).await? {
            return Err(Error::new(ErrorKind::Busy, SWEEP, "a job of it is active; end that first").with("job", job));
        }
        let (mut removed, mut foreign) = (Vec::new(), Vec::new());
        for listed in found {
            match &listed.ours {
                Some(name) => {
                    at.source.remove_snapshot(&at.machine, name).await?;
                    removed.push(listed.name);
                }
                None => foreign.push(listed.name),
            }
        }
        Ok(SweptSource { vm_name: context.vm_name, removed, foreign })
    }
}
