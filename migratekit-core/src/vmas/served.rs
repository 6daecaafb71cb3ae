//! Whether some process serves the tunnel of this catalog. It says so in the catalog while it does: who revokes waits for it as long as it
//! takes to cut what is connected, and claims nothing in its place.

use super::Vmas;
use super::limits::SERVED_TIME;
use crate::clock::Timestamp;
use crate::error::Result;

/// The fact of the catalog that says when somebody last served; by the database's clock, in microseconds.
const SERVED: &str = "tunnel_served_at";

impl Vmas {
    /// Says that this process serves.
    pub(super) async fn say_served(&self) -> Result<()> {
        self.store
            .write("say that the tunnel is served", |tx| async move {
                let now = tx.now().await?.as_micros().to_string();
                tx.facts().set(SERVED, &now).await
            })
            .await
    }

    /// Says that it serves no more.
    pub(super) async fn say_not_served(&self) -> Result<()> {
        self.store.write("say that the tunnel is served no more", |tx| async move { tx.facts().remove(SERVED).await }).await
    }

    /// Whether a process said so a short while ago.
    pub(super) async fn is_served(&self) -> Result<bool> {
        self.store
            .read("look whether the tunnel is served", |tx| async move {
                let said = tx.facts().get(SERVED).await?.and_then(|text| text.parse().ok());
                let Some(Ok(said)) = said.map(Timestamp::from_micros) else { return Ok(false) };
                Ok(tx.now().await?.since(said) <= SERVED_TIME)
            })
            .await
    }
}
