//! Which platforms a VM lives on, for its replications: asked of the catalog anew by each step.

use std::sync::Arc;

use super::Engine;
use crate::block::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Context;
use crate::platform::{Target, local};
use crate::replication::{Reach, SourceMachine};
use crate::store::Store;

/// Knows the local sites of a catalog.
#[derive(Debug, Clone)]
pub(super) struct Sites {
    store: Store,
}

impl Sites {
    pub(super) fn of(store: &Store) -> Self {
        Sites { store: store.clone() }
    }

    async fn site(&self, context: &Context) -> Result<local::LocalSite> {
        const REACH: &str = "reach the platform of a VM";
        let of_vm = |error: Error| error.with("VM", &context.vm_name);
        let Some(id) = context.site else {
            let text = "it lives on no local site, and this version reaches no other platform";
            return Err(of_vm(Error::new(ErrorKind::Unsupported, REACH, text)));
        };
        let row = self.store.read(REACH, |tx| async move { tx.sites().get(id).await }).await?;
        let row = row.ok_or_else(|| of_vm(Error::new(ErrorKind::NotFound, REACH, "its site is saved no more")))?;
        local::LocalSite::of(&row.machines, &row.volumes).await.map_err(|e| of_vm(e.with("site", &row.name)))
    }
}

impl Reach for Sites {
    fn source<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<SourceMachine>> {
        Box::pin(async move {
            let source = Arc::new(self.site(context).await?);
            Ok(SourceMachine { source, machine: context.source_vm_id.parse()? })
        })
    }

    fn target<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<Arc<dyn Target>>> {
        Box::pin(async move {
            let target: Arc<dyn Target> = Arc::new(self.site(context).await?);
            Ok(target)
        })
    }
}

impl Engine {
    /// Where the replica of a VM lives.
    pub(super) async fn target_of(&self, context: &Context) -> Result<Arc<dyn Target>> {
        Sites::of(self.store()).target(context).await
    }
}
