//! How VMAs become trusted: `vma_pairing_codes`, `vma_enrollments`, `vma_active_connections`, `vma_connection_audit`.

use super::contexts::MAX_PAGE;
use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{EnrollmentId, PairingId};
use crate::model::{Connection, ConnectionAudit, ConnectionEvent, Enrollment, EnrollmentStatus, PairingCode};

/// Enrollments, in one transaction.
#[derive(Debug)]
pub struct Enrollments<'t>(&'t Tx);

impl Tx {
    /// Enrollments, pairing codes, connections and their history.
    #[must_use]
    pub fn enrollments(&self) -> Enrollments<'_> {
        Enrollments(self)
    }
}

const ENROLLMENT: &str = "id, pairing_id, vma_public_key, vma_name, vma_version, vma_fingerprint, vma_ip_address, challenge_nonce, status, \
     reverse_port, approved_by, approved_at, expires_at, created_at, updated_at";
const CODE: &str = "id, code_digest, generated_by, used_by_enrollment_id, used_at, expires_at, created_at";
pub(super) const CONNECTION: &str =
    "id, enrollment_id, vma_name, vma_fingerprint, ssh_user, connection_status, last_seen_at, connected_at, revoked_at, revoked_by";

/// A line of a VMA's history as it is written.
#[derive(Debug, Clone, Copy)]
pub struct NewConnectionAudit<'a> {
    /// What happened.
    pub event: ConnectionEvent,
    /// Where it came from.
    pub source_ip: Option<&'a str>,
    /// What the other side called itself.
    pub user_agent: Option<&'a str>,
    /// Who approved.
    pub approved_by: Option<&'a str>,
    /// What belongs to it.
    pub details: Option<&'a serde_json::Value>,
}

impl Enrollments<'_> {
    /// Writes a new pairing code down; only its digest.
    pub async fn add_code(&self, code: &PairingCode) -> Result<()> {
        let text = "INSERT INTO vma_pairing_codes (id, code_digest, generated_by, expires_at, created_at) VALUES (?, ?, ?, ?, ?)";
        let statement = self.0.sql("add a pairing code", text).bind(&code.id).bind(&code.code_digest).bind(&code.generated_by);
        statement.bind(code.expires_at).bind(code.created_at).run().await.map(|_| ())
    }

    /// Uses a pairing code up for an enrollment. Of two at once exactly one succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when there is no such code, or it was used or is over at `at`: one text, so that nobody learns which.
    pub async fn use_code(&self, digest: &str, enrollment: &EnrollmentId, at: Timestamp) -> Result<()> {
        const USE: &str = "use a pairing code";
        let text = "UPDATE vma_pairing_codes SET used_by_enrollment_id = ?, used_at = ? WHERE code_digest = ? AND used_at IS NULL AND expires_at > ?";
        match self.0.sql(USE, text).bind(enrollment).bind(at).bind(digest).bind(at).run().await? {
            0 => Err(Error::new(ErrorKind::Denied, USE, "the code does not hold")),
            _ => Ok(()),
        }
    }

    /// The pairing codes that hold at `at`, newest first, at most 1000.
    pub async fn live_codes(&self, at: Timestamp) -> Result<Vec<PairingCode>> {
        let text = format!(
            "SELECT {CODE} FROM vma_pairing_codes WHERE used_at IS NULL AND expires_at > ? ORDER BY created_at DESC, id DESC LIMIT {MAX_PAGE}"
        );
        self.0.sql("list the pairing codes", text).bind(at).all(code).await
    }

    /// A pairing code.
    pub async fn code(&self, id: &PairingId) -> Result<Option<PairingCode>> {
        let text = format!("SELECT {CODE} FROM vma_pairing_codes WHERE id = ?");
        self.0.sql("read a pairing code", text).bind(id).first(code).await
    }

    /// Writes a new enrollment down.
    pub async fn add(&self, new: &Enrollment) -> Result<()> {
        let text = format!("INSERT INTO vma_enrollments ({ENROLLMENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let statement =
            self.0.sql("add an enrollment", text).bind(&new.id).bind(new.pairing.as_ref()).bind(&new.public_key).bind(&new.name);
        let statement = statement.bind(new.version.as_ref()).bind(&new.fingerprint).bind(new.ip_address.as_ref());
        let statement = statement.bind(new.challenge_nonce.as_ref()).bind(new.status.code()).bind(new.reverse_port);
        let statement = statement.bind(new.approved_by.as_ref()).bind(new.approved_at).bind(new.expires_at);
        statement.bind(new.created_at).bind(new.updated_at).run().await.map(|_| ())
    }

    /// An enrollment.
    pub async fn get(&self, id: &EnrollmentId) -> Result<Option<Enrollment>> {
        let text = format!("SELECT {ENROLLMENT} FROM vma_enrollments WHERE id = ?");
        self.0.sql("read an enrollment", text).bind(id).first(enrollment).await
    }

    /// The enrollments of a key, newest first, at most 1000.
    pub async fn of_key(&self, fingerprint: &str) -> Result<Vec<Enrollment>> {
        let text = format!(
            "SELECT {ENROLLMENT} FROM vma_enrollments WHERE vma_fingerprint = ? ORDER BY created_at DESC, id DESC LIMIT {MAX_PAGE}"
        );
        self.0.sql("look for a VMA's key", text).bind(fingerprint).all(enrollment).await
    }

    /// The enrollments in a state, newest first, at most 1000.
    pub async fn in_state(&self, status: EnrollmentStatus) -> Result<Vec<Enrollment>> {
        let text = format!("SELECT {ENROLLMENT} FROM vma_enrollments WHERE status = ? ORDER BY created_at DESC, id DESC LIMIT {MAX_PAGE}");
        self.0.sql("list the enrollments in a state", text).bind(status.code()).all(enrollment).await
    }

    /// The enrollments that are revoked while their connection is not known to have ended, at most 1000.
    pub async fn half_revoked(&self) -> Result<Vec<Enrollment>> {
        let text = format!(
            "SELECT {ENROLLMENT} FROM vma_enrollments WHERE status = 'revoked' AND id IN \
             (SELECT enrollment_id FROM vma_active_connections WHERE connection_status <> 'revoked') ORDER BY id LIMIT {MAX_PAGE}"
        );
        self.0.sql("look for revocations to finish", text).all(enrollment).await
    }

    /// All enrollments, newest first, at most 1000.
    pub async fn all(&self) -> Result<Vec<Enrollment>> {
        let text = format!("SELECT {ENROLLMENT} FROM vma_enrollments ORDER BY created_at DESC, id DESC LIMIT {MAX_PAGE}");
        self.0.sql("list the enrollments", text).all(enrollment).await
    }

    /// Writes an enrollment as it is now (its status, port, approval and nonce), provided its status is still `from`;
    /// [`ErrorKind::Changed`] otherwise.
    pub async fn advance(&self, now: &Enrollment, from: EnrollmentStatus) -> Result<()> {
        const ADVANCE: &str = "change an enrollment";
        let text = "UPDATE vma_enrollments SET challenge_nonce = ?, status = ?, reverse_port = ?, approved_by = ?, approved_at = ?, \
             updated_at = ? WHERE id = ? AND status = ?";
        let statement = self.0.sql(ADVANCE, text).bind(now.challenge_nonce.as_ref()).bind(now.status.code()).bind(now.reverse_port);
        let statement = statement.bind(now.approved_by.as_ref()).bind(now.approved_at).bind(now.updated_at).bind(&now.id);
        match statement.bind(from.code()).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, ADVANCE, "it is not what it was").with("enrollment", &now.id)),
            _ => Ok(()),
        }
    }

    /// Gives an enrollment another key, and its connection with it.
    pub async fn replace_key(&self, id: &EnrollmentId, key: &str, fingerprint: &str, at: Timestamp) -> Result<()> {
        let text = "UPDATE vma_enrollments SET vma_public_key = ?, vma_fingerprint = ?, updated_at = ? WHERE id = ?";
        self.0.sql("replace a VMA's key", text).bind(key).bind(fingerprint).bind(at).bind(id).run_found(NONE).await?;
        let text = "UPDATE vma_active_connections SET vma_fingerprint = ? WHERE enrollment_id = ?";
        self.0.sql("replace a VMA's key", text).bind(fingerprint).bind(id).run().await.map(|_| ())
    }

    /// Removes an enrollment; its history stays.
    pub async fn remove(&self, id: &EnrollmentId) -> Result<()> {
        self.0.sql("remove an enrollment", "DELETE FROM vma_enrollments WHERE id = ?").bind(id).run_found(NONE).await
    }

    /// Writes down how an enrollment is connected, instead of what was known.
    pub async fn set_connection(&self, now: &Connection) -> Result<()> {
        let columns =
            ["vma_name", "vma_fingerprint", "ssh_user", "connection_status", "last_seen_at", "connected_at", "revoked_at", "revoked_by"];
        let upsert = dialect::upsert(self.0.backend(), "enrollment_id", &columns);
        let text = format!("INSERT INTO vma_active_connections ({CONNECTION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?){upsert}");
        let statement = self.0.sql("note a VMA's connection", text).bind(&now.id).bind(&now.enrollment).bind(&now.name);
        let statement = statement.bind(&now.fingerprint).bind(&now.ssh_user).bind(now.status.code()).bind(now.last_seen_at);
        statement.bind(now.connected_at).bind(now.revoked_at).bind(now.revoked_by.as_ref()).run().await.map(|_| ())
    }

    /// Writes down who revoked an enrollment, and when; its connection may still be cut.
    pub async fn revoke_connection(&self, id: &EnrollmentId, by: &str, at: Timestamp) -> Result<()> {
        let text = "UPDATE vma_active_connections SET revoked_at = ?, revoked_by = ? WHERE enrollment_id = ?";
        self.0.sql("revoke a VMA's connection", text).bind(at).bind(by).bind(id).run_found(NONE).await
    }

    /// Writes down that the connection of a revoked enrollment has ended for good. `false`: that was known.
    pub async fn end_connection(&self, id: &EnrollmentId) -> Result<bool> {
        let text =
            "UPDATE vma_active_connections SET connection_status = 'revoked' WHERE enrollment_id = ? AND connection_status <> 'revoked'";
        Ok(self.0.sql("end a VMA's connection", text).bind(id).run().await? > 0)
    }

    /// How an enrollment is connected.
    pub async fn connection(&self, id: &EnrollmentId) -> Result<Option<Connection>> {
        let text = format!("SELECT {CONNECTION} FROM vma_active_connections WHERE enrollment_id = ?");
        self.0.sql("read a VMA's connection", text).bind(id).first(connection).await
    }

    /// Writes a line of an enrollment's history, with copies of its name and fingerprint.
    pub async fn record(&self, id: &EnrollmentId, line: &NewConnectionAudit<'_>, at: Timestamp) -> Result<()> {
        let text = "INSERT INTO vma_connection_audit (enrollment_id, vma_name, vma_fingerprint, event_type, source_ip, user_agent, approved_by, \
             event_details, created_at) SELECT id, vma_name, vma_fingerprint, ?, ?, ?, ?, ?, ? FROM vma_enrollments WHERE id = ?";
        let statement = self.0.sql("write a VMA's history", text).bind(line.event.code()).bind(line.source_ip).bind(line.user_agent);
        statement.bind(line.approved_by).bind(line.details).bind(at).bind(id).run_found(NONE).await
    }

    /// The history of all VMAs, or of one key by its fingerprint (also after its enrollment is gone), newest first, at most 1000.
    pub async fn history(&self, fingerprint: Option<&str>) -> Result<Vec<ConnectionAudit>> {
        let of = if fingerprint.is_some() { "WHERE vma_fingerprint = ?" } else { "" };
        let text = format!(
            "SELECT id, enrollment_id, event_type, vma_fingerprint, source_ip, user_agent, approved_by, event_details, created_at \
             FROM vma_connection_audit {of} ORDER BY id DESC LIMIT {MAX_PAGE}"
        );
        let statement = self.0.sql("read the history of VMAs", text);
        let statement = if let Some(fingerprint) = fingerprint { statement.bind(fingerprint) } else { statement };
        statement.all(audit).await
    }
}

const NONE: &str = "there is no such enrollment";

fn code(row: &Row) -> Result<PairingCode> {
    Ok(PairingCode {
        id: row.parse("id")?,
        code_digest: row.text("code_digest")?,
        generated_by: row.text("generated_by")?,
        used_by: row.parse_or_none("used_by_enrollment_id")?,
        used_at: row.time_or_none("used_at")?,
        expires_at: row.time("expires_at")?,
        created_at: row.time("created_at")?,
    })
}

fn enrollment(row: &Row) -> Result<Enrollment> {
    Ok(Enrollment {
        id: row.parse("id")?,
        pairing: row.parse_or_none("pairing_id")?,
        public_key: row.text("vma_public_key")?,
        name: row.text("vma_name")?,
        version: row.text_or_none("vma_version")?,
        fingerprint: row.text("vma_fingerprint")?,
        ip_address: row.text_or_none("vma_ip_address")?,
        challenge_nonce: row.text_or_none("challenge_nonce")?,
        status: row.parse("status")?,
        reverse_port: row.number_or_none("reverse_port")?,
        approved_by: row.text_or_none("approved_by")?,
        approved_at: row.time_or_none("approved_at")?,
        expires_at: row.time("expires_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(super) fn connection(row: &Row) -> Result<Connection> {
    Ok(Connection {
        id: row.parse("id")?,
        enrollment: row.parse("enrollment_id")?,
        name: row.text("vma_name")?,
        fingerprint: row.text("vma_fingerprint")?,
        ssh_user: row.text("ssh_user")?,
        status: row.parse("connection_status")?,
        last_seen_at: row.time_or_none("last_seen_at")?,
        connected_at: row.time_or_none("connected_at")?,
        revoked_at: row.time_or_none("revoked_at")?,
        revoked_by: row.text_or_none("revoked_by")?,
    })
}

fn audit(row: &Row) -> Result<ConnectionAudit> {
    Ok(ConnectionAudit {
        id: row.number("id")?,
        enrollment: row.parse_or_none("enrollment_id")?,
        event: row.parse("event_type")?,
        fingerprint: row.text_or_none("vma_fingerprint")?,
        source_ip: row.text_or_none("source_ip")?,
        user_agent: row.text_or_none("user_agent")?,
        approved_by: row.text_or_none("approved_by")?,
        details: row.json_or_none("event_details")?,
        created_at: row.time("created_at")?,
    })
}
