//! Who may come in through the tunnel, by the catalog: the keys of approved enrollments, and no others.
//!
//! Nothing is kept in memory: an approval or revocation that is committed counts at the next look, whichever process made it. The serving
//! process also [tends](Vmas::tend) what is left to do: it finishes the revocations of other processes, which wait for it.

use super::limits::{LAST_SIGN, SIGN_PAUSE, TEND_PAUSE};
use super::{Vmas, administration, rotation};
use crate::block::BoxFuture;
use crate::clock;
use crate::error::Result;
use crate::model::EnrollmentStatus;
use crate::store::{Store, Tx};
use crate::task::CancellationToken;
use crate::tunnels::{KeySource, PublicKey, Server, Vma};

/// Who comes in, as the catalog says it: the keys of approved enrollments, and of those that rotate.
#[derive(Debug, Clone)]
pub struct CatalogKeys(pub(super) Store);

impl KeySource for CatalogKeys {
    fn holder<'a>(&'a self, key: &'a PublicKey) -> BoxFuture<'a, Result<Option<Vma>>> {
        Box::pin(holder(&self.0, key))
    }
}

/// The approved VMA that holds the key.
pub(super) async fn holder(store: &Store, key: &PublicKey) -> Result<Option<Vma>> {
    let fingerprint = &key.fingerprint().to_string();
    let read = |tx: Tx| async move {
        let found = tx.enrollments().of_key(fingerprint).await?;
        let approved = found.into_iter().find(|e| e.status == EnrollmentStatus::Approved && e.public_key == key.to_string());
        let Some(approved) = approved else { return Ok(None) };
        // The key of a rotation comes in as the VMA whose key it is to replace, as long as that is trusted.
        Ok(match rotation::succeeds(&approved) {
            Some(replaces) => rotation::trusted(&tx, &replaces).await?,
            None => Some(approved),
        })
    };
    let approved = store.read("look for a VMA's key", read).await?;
    Ok(approved.map(|e| Vma { name: e.name, reverse_port: e.reverse_port }))
}

impl Vmas {
    /// The keys that may come in, for a [`Server`].
    #[must_use]
    pub fn keys(&self) -> CatalogKeys {
        CatalogKeys(self.store.clone())
    }

    /// Finishes revocations that other processes began, until `cancel`: cuts what is connected, waits for its end, writes the audit. And
    /// rotations whose new key came in. It says in the catalog that the tunnel is served, so that those others wait for it.
    pub async fn tend(&self, server: &Server, cancel: &CancellationToken) {
        let mut next_sign = clock::now();
        loop {
            if clock::now() >= next_sign {
                match self.say_served().await {
                    Ok(()) => next_sign = clock::now() + SIGN_PAUSE,
                    Err(error) => tracing::warn!(%error, "that the tunnel is served could not be said; it is tried again"),
                }
            }
            for (what, end) in [("revocations", self.finish_revocations(server).await), ("rotations", self.finish_rotations(server).await)]
            {
                if let Err(error) = end {
                    tracing::warn!(%error, "{what} could not be finished; it is tried again");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = clock::sleep(TEND_PAUSE) => {}
            }
        }
        if !matches!(clock::within(LAST_SIGN, self.say_not_served()).await, Some(Ok(()))) {
            tracing::warn!("that the tunnel is served no more could not be said; the last sign holds for a while");
        }
    }

    async fn finish_revocations(&self, server: &Server) -> Result<()> {
        let half = self.store.read("look for revocations to finish", |tx| async move { tx.enrollments().half_revoked().await }).await?;
        for enrollment in half {
            server.revoke(&enrollment.fingerprint.parse()?).await;
            administration::finish(&self.store, &enrollment.id, "the serving process").await?;
        }
        Ok(())
    }
}
