//! What sources have: a look, of which nothing is kept.

use super::Engine;
use super::credentials::Site;
use crate::error::Result;
use crate::inventory::{self, Discovered, NamePattern};

/// Looks at sources.
#[derive(Debug, Clone)]
pub struct InventoryLook {
    engine: Engine,
}

impl InventoryLook {
    pub(super) fn of(engine: &Engine) -> Self {
        InventoryLook { engine: engine.clone() }
    }

    /// The machines of a source that was saved under `source`, whose names fit `names` (a star stands for any text); each with its
    /// context when it is managed already, and each place that holds none that can be read with the reason.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a name that is not saved;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a platform whose machines this version does not read; those of the
    /// source.
    pub async fn discover(&self, source: &str, names: &str) -> Result<Vec<Discovered>> {
        let names: NamePattern = names.parse()?;
        let Site { row, site } = self.engine.credentials().open_site(source).await?;
        inventory::discover(self.engine.store(), &super::credentials::origin(&row), &site, &names).await
    }
}
