//! Who may sign in, with what, and what was done: `users`, `api_tokens`, `audit_log`.

use super::Tx;
use super::contexts::MAX_PAGE;
use super::row::Row;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{AuditId, TokenId, UserId};
use crate::model::{ApiToken, AuditEntry, Role, User};

/// Users and tokens, in one transaction.
#[derive(Debug)]
pub struct Users<'t>(&'t Tx);

/// What was done, in one transaction.
#[derive(Debug)]
pub struct Audit<'t>(&'t Tx);

/// An entry of the audit as it is written.
#[derive(Debug, Clone, Copy)]
pub struct NewAuditEntry<'a> {
    /// Who: a user's name, `cli`, a VMA's fingerprint.
    pub actor: &'a str,
    /// What: `context.delete`, `key.rotate`.
    pub action: &'a str,
    /// To what kind of thing.
    pub subject_kind: &'a str,
    /// To which one.
    pub subject_id: &'a str,
    /// What belongs to it; never a secret.
    pub details: Option<&'a serde_json::Value>,
    /// Where the call came from.
    pub source_ip: Option<&'a str>,
    /// Whether it was allowed and done.
    pub success: bool,
}

impl Tx {
    /// Users and tokens.
    #[must_use]
    pub fn users(&self) -> Users<'_> {
        Users(self)
    }

    /// What was done.
    #[must_use]
    pub fn audit(&self) -> Audit<'_> {
        Audit(self)
    }
}

const USER: &str = "id, name, role, password_hash, is_active, last_login, created_at, updated_at";
const TOKEN: &str = "id, user_id, name, digest, expires_at, last_used, revoked_at, created_at";

impl Users<'_> {
    /// Writes a new user down. [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the name is taken.
    pub async fn add(&self, user: &User) -> Result<()> {
        let text = format!("INSERT INTO users ({USER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        let statement = self.0.sql("add a user", text).bind(&user.id).bind(&user.name).bind(user.role.code());
        let statement = statement.bind(user.password_hash.as_ref()).bind(user.is_active).bind(user.last_login);
        statement.bind(user.created_at).bind(user.updated_at).run().await.map(|_| ())
    }

    /// The user of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<User>> {
        self.0.sql("look for a user", format!("SELECT {USER} FROM users WHERE name = ?")).bind(name).first(user).await
    }

    /// All users by name, at most 1000.
    pub async fn all(&self) -> Result<Vec<User>> {
        self.0.sql("list the users", format!("SELECT {USER} FROM users ORDER BY name LIMIT {MAX_PAGE}")).all(user).await
    }

    /// Changes what a user may do, and whether it may at all.
    pub async fn set_role(&self, id: &UserId, role: Role, is_active: bool, at: Timestamp) -> Result<()> {
        let text = "UPDATE users SET role = ?, is_active = ?, updated_at = ? WHERE id = ?";
        self.0.sql("change a user", text).bind(role.code()).bind(is_active).bind(at).bind(id).run_found(NO_USER).await
    }

    /// Changes the hash of a user's password; none: by token only.
    pub async fn set_password(&self, id: &UserId, hash: Option<&str>, at: Timestamp) -> Result<()> {
        let text = "UPDATE users SET password_hash = ?, updated_at = ? WHERE id = ?";
        self.0.sql("change a user's password", text).bind(hash).bind(at).bind(id).run_found(NO_USER).await
    }

    /// A user signed in.
    pub async fn signed_in(&self, id: &UserId, at: Timestamp) -> Result<()> {
        self.0.sql("note a sign-in", "UPDATE users SET last_login = ? WHERE id = ?").bind(at).bind(id).run_found(NO_USER).await
    }

    /// Removes a user and its tokens; what it did stays in the audit, with its name.
    pub async fn remove(&self, id: &UserId) -> Result<()> {
        self.0.sql("remove a user", "DELETE FROM users WHERE id = ?").bind(id).run_found(NO_USER).await
    }

    /// Writes a new token down; only its digest.
    pub async fn add_token(&self, token: &ApiToken) -> Result<()> {
        let text = format!("INSERT INTO api_tokens ({TOKEN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        let statement = self.0.sql("add a token", text).bind(&token.id).bind(&token.user).bind(&token.name).bind(&token.digest);
        let statement = statement.bind(token.expires_at).bind(token.last_used).bind(token.revoked_at).bind(token.created_at);
        statement.run().await.map(|_| ())
    }

    /// The token of this digest with its user: whether both still hold is the caller's to judge.
    pub async fn token(&self, digest: &str) -> Result<Option<(ApiToken, User)>> {
        let found =
            self.0.sql("look for a token", format!("SELECT {TOKEN} FROM api_tokens WHERE digest = ?")).bind(digest).first(token).await?;
        let Some(token) = found else { return Ok(None) };
        let text = format!("SELECT {USER} FROM users WHERE id = ?");
        let user = self.0.sql("look for a token's user", text).bind(&token.user).one(NO_USER, user).await?;
        Ok(Some((token, user)))
    }

    /// A user's tokens, newest first, at most 1000.
    pub async fn tokens(&self, user: &UserId) -> Result<Vec<ApiToken>> {
        let text = format!("SELECT {TOKEN} FROM api_tokens WHERE user_id = ? ORDER BY created_at DESC, id DESC LIMIT {MAX_PAGE}");
        self.0.sql("list a user's tokens", text).bind(user).all(token).await
    }

    /// A token was used.
    pub async fn used(&self, id: &TokenId, at: Timestamp) -> Result<()> {
        self.0.sql("note a token's use", "UPDATE api_tokens SET last_used = ? WHERE id = ?").bind(at).bind(id).run_found(NO_TOKEN).await
    }

    /// Ends a token. Ending it again changes nothing.
    pub async fn revoke(&self, id: &TokenId, at: Timestamp) -> Result<()> {
        let text = "UPDATE api_tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?";
        self.0.sql("end a token", text).bind(at).bind(id).run_found(NO_TOKEN).await
    }
}

const NO_USER: &str = "there is no such user";
const NO_TOKEN: &str = "there is no such token";

impl Audit<'_> {
    /// Writes down what was done, in the transaction that does it.
    pub async fn add(&self, entry: &NewAuditEntry<'_>, at: Timestamp) -> Result<()> {
        let text = "INSERT INTO audit_log (actor, action, subject_kind, subject_id, details, source_ip, success, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let statement = self.0.sql("write the audit", text).bind(entry.actor).bind(entry.action).bind(entry.subject_kind);
        let statement = statement.bind(entry.subject_id).bind(entry.details).bind(entry.source_ip).bind(entry.success);
        statement.bind(at).run().await.map(|_| ())
    }

    /// At most `limit` (up to 1000) entries, newest first, before the entry `before`.
    pub async fn page(&self, before: Option<AuditId>, limit: u32) -> Result<Vec<AuditEntry>> {
        let text = format!(
            "SELECT id, actor, action, subject_kind, subject_id, details, source_ip, success, created_at FROM audit_log \
             WHERE id < ? ORDER BY id DESC LIMIT {}",
            limit.clamp(1, MAX_PAGE)
        );
        let before = before.map_or(i64::MAX, AuditId::get);
        self.0.sql("read the audit", text).bind(before).all(entry).await
    }
}

fn user(row: &Row) -> Result<User> {
    Ok(User {
        id: row.parse("id")?,
        name: row.text("name")?,
        role: row.parse("role")?,
        password_hash: row.text_or_none("password_hash")?,
        is_active: row.flag("is_active")?,
        last_login: row.time_or_none("last_login")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn token(row: &Row) -> Result<ApiToken> {
    Ok(ApiToken {
        id: row.parse("id")?,
        user: row.parse("user_id")?,
        name: row.text("name")?,
        digest: row.text("digest")?,
        expires_at: row.time_or_none("expires_at")?,
        last_used: row.time_or_none("last_used")?,
        revoked_at: row.time_or_none("revoked_at")?,
        created_at: row.time("created_at")?,
    })
}

fn entry(row: &Row) -> Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.number("id")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        subject_kind: row.text("subject_kind")?,
        subject_id: row.text("subject_id")?,
        details: row.json_or_none("details")?,
        source_ip: row.text_or_none("source_ip")?,
        success: row.flag("success")?,
        created_at: row.time("created_at")?,
    })
}
