//! Whether approved VMAs are connected, as the tunnel sees it: `vma_active_connections`. Their rows are made by an approval and ended by
//! a revocation ([`super::Enrollments`]); what happens between is written here, and never to a row that is ended.

use super::contexts::MAX_PAGE;
use super::enrollments::{CONNECTION, connection};
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::EnrollmentId;
use crate::model::Connection;

/// Connections of VMAs, in one transaction.
#[derive(Debug)]
pub struct VmaConnections<'t>(&'t Tx);

impl Tx {
    /// Connections of VMAs.
    #[must_use]
    pub fn vma_connections(&self) -> VmaConnections<'_> {
        VmaConnections(self)
    }
}

impl VmaConnections<'_> {
    /// Those of a key that are not ended; one, if the key was approved. To be changed in the same transaction: until its end nobody else
    /// gives the row another key.
    pub async fn of_key(&self, fingerprint: &str) -> Result<Vec<Connection>> {
        let text = format!(
            "SELECT {CONNECTION} FROM vma_active_connections WHERE vma_fingerprint = ? AND connection_status <> 'revoked'{}",
            dialect::for_update(self.0.backend())
        );
        self.0.sql("look for a VMA's connection", text).bind(fingerprint).all(connection).await
    }

    /// Those that are called connected, at most 1000.
    pub async fn connected(&self) -> Result<Vec<Connection>> {
        let text = format!("SELECT {CONNECTION} FROM vma_active_connections WHERE connection_status = 'connected' LIMIT {MAX_PAGE}");
        self.0.sql("list connected VMAs", text).all(connection).await
    }

    /// A VMA has connected. `false`: its trust is ended.
    pub async fn connect(&self, id: &EnrollmentId, at: Timestamp) -> Result<bool> {
        let text = "UPDATE vma_active_connections SET connection_status = 'connected', connected_at = ?, last_seen_at = ? \
             WHERE enrollment_id = ? AND connection_status <> 'revoked'";
        Ok(self.0.sql("note that a VMA connected", text).bind(at).bind(at).bind(id).run().await? > 0)
    }

    /// A VMA is connected no more; `seen`: when it was last heard, if that is known better than the row does. `false`: it was not
    /// called connected.
    pub async fn disconnect(&self, id: &EnrollmentId, seen: Option<Timestamp>) -> Result<bool> {
        let text = "UPDATE vma_active_connections SET connection_status = 'disconnected', last_seen_at = COALESCE(?, last_seen_at) \
             WHERE enrollment_id = ? AND connection_status = 'connected'";
        Ok(self.0.sql("note that a VMA is not connected", text).bind(seen).bind(id).run().await? > 0)
    }

    /// Something was heard from a connected VMA. `false`: that is no news.
    pub async fn seen(&self, fingerprint: &str, at: Timestamp) -> Result<bool> {
        let text = "UPDATE vma_active_connections SET last_seen_at = ? \
             WHERE vma_fingerprint = ? AND connection_status = 'connected' AND (last_seen_at IS NULL OR last_seen_at < ?)";
        Ok(self.0.sql("note that a VMA lives", text).bind(at).bind(fingerprint).bind(at).run().await? > 0)
    }
}
