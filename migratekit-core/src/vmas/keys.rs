//! Who may come in through the tunnel, by the catalog: the keys of approved enrollments, and no others.
//!
//! Nothing is kept in memory: an approval or revocation that is committed counts at the next look, whichever process made it. The serving
//! process also [tends](Vmas::tend) what is left to do: it finishes the revocations of other processes, which wait for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::{FINISH_TIME, LAST_SIGN, MAX_FINISHING, SIGN_PAUSE, TEND_PAUSE};
use super::{Vmas, administration, rotation};
use crate::block::BoxFuture;
use crate::clock;
use crate::error::Result;
use crate::id::EnrollmentId;
use crate::model::{Enrollment, EnrollmentStatus};
use crate::store::{Store, Tx};
use crate::task::{CancellationToken, Scope};
use crate::tunnels::{KeySource, Peer, PublicKey, Server, Vma};

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
    /// rotations whose new key came in. It says in the catalog that the tunnel is served, so that those others wait for it. A VMA whose streams
    /// do not end keeps no other one waiting.
    pub async fn tend(&self, server: &Server, cancel: &CancellationToken) {
        let mut next_sign = clock::now();
        let mut finishing = Finishing { tasks: Scope::child_of(cancel), under_way: Arc::default() };
        loop {
            if clock::now() >= next_sign {
                match self.say_served().await {
                    Ok(()) => next_sign = clock::now() + SIGN_PAUSE,
                    Err(error) => tracing::warn!(%error, "that the tunnel is served could not be said; it is tried again"),
                }
            }
            let revocations = self.finish_revocations(server, &mut finishing).await;
            for (what, end) in [("revocations", revocations), ("rotations", self.finish_rotations(server).await)] {
                if let Err(error) = end {
                    tracing::warn!(%error, "{what} could not be finished; it is tried again");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = clock::sleep(TEND_PAUSE) => {}
            }
        }
        if let Err(error) = finishing.tasks.close().await {
            tracing::error!(%error, "a revocation could not be finished");
        }
        if !matches!(clock::within(LAST_SIGN, self.say_not_served()).await, Some(Ok(()))) {
            tracing::warn!("that the tunnel is served no more could not be said; the last sign holds for a while");
        }
    }

    /// All are cut before any is waited for. Who was trusted since under the same name is left alone.
    async fn finish_revocations(&self, server: &Server, finishing: &mut Finishing) -> Result<()> {
        let look = |tx: Tx| async move {
            let half = tx.enrollments().half_revoked().await?;
            let trusted = if half.is_empty() { Vec::new() } else { tx.enrollments().in_state(EnrollmentStatus::Approved).await? };
            Ok((half, trusted))
        };
        let (half, trusted) = self.store.read("look for revocations to finish", look).await?;
        let trusted: BTreeSet<String> = trusted.into_iter().map(|enrollment| enrollment.fingerprint).collect();
        let cut = |revoked: Enrollment| {
            let is_its = |peer: &Peer| peer.vma.name == revoked.name && !trusted.contains(&peer.key.fingerprint().to_string());
            let stands = server.connected().iter().any(is_its);
            let ended = server.revoke_vma(&revoked.name, &trusted);
            (revoked.id, stands, ended)
        };
        for (id, stands, ended) in half.into_iter().map(cut).collect::<Vec<_>>() {
            finishing.begin(&self.store, id, stands, ended);
        }
        Ok(())
    }
}

/// The revocations whose second half is under way, each a task.
struct Finishing {
    tasks: Scope,
    under_way: Arc<Mutex<BTreeSet<EnrollmentId>>>,
}

impl Finishing {
    /// Finishes a revocation when `ended` has ended, unless that is under way. One for which there is no room now has its turn at a later
    /// look; so has one whose time is over.
    fn begin(&mut self, store: &Store, id: EnrollmentId, stands: bool, ended: impl Future<Output = ()> + Send + 'static) {
        {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if under_way.len() >= MAX_FINISHING || !under_way.insert(id.clone()) {
                return;
            }
        }
        let (store, cancel, place) = (store.clone(), self.tasks.token().clone(), Place(Arc::clone(&self.under_way), id));
        self.tasks.spawn(async move {
            let (store, id) = (&store, &place.1);
            let finishing = async {
                if stands {
                    // Whoever revoked it waits, and must not take a row that lags behind for nobody being connected.
                    let write = |tx: Tx| async move { tx.vma_connections().connect(id, tx.now().await?).await };
                    store.write("note that a revoked VMA is connected still", write).await?;
                }
                ended.await;
                administration::finish(store, id, "the serving process").await
            };
            match cancel.run_until_cancelled(clock::within(FINISH_TIME, finishing)).await {
                Some(Some(Ok(()))) | None => {}
                Some(Some(Err(error))) => tracing::warn!(%error, vma = %id, "a revocation could not be finished; it is tried again"),
                Some(None) => tracing::warn!(vma = %id, "streams of a revoked VMA do not end; its revocation is not finished"),
            }
        });
    }
}

/// A revocation under way; dropped, it is so no more.
struct Place(Arc<Mutex<BTreeSet<EnrollmentId>>>, EnrollmentId);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}
