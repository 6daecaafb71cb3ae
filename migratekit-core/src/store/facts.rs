//! What the catalog knows of itself (`store_facts`): short texts by name, such as the host it belongs to and the check value of its key.

use super::{Tx, dialect};
use crate::error::{Error, ErrorKind, Result};

/// The facts, in one transaction.
#[derive(Debug)]
pub struct Facts<'t>(&'t Tx);

impl Tx {
    /// What the catalog knows of itself.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts(self)
    }
}

impl Facts<'_> {
    /// The fact of this name, if it is known.
    pub async fn get(&self, name: &str) -> Result<Option<String>> {
        self.0.sql("read a fact", "SELECT value FROM store_facts WHERE name = ?").bind(name).first(|row| row.text("value")).await
    }

    /// Writes a fact down, instead of what was known.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        let upsert = dialect::upsert(self.0.backend(), "name", &["value", "updated_at"]);
        let text = format!("INSERT INTO store_facts (name, value, updated_at) VALUES (?, ?, {}){upsert}", dialect::now(self.0.backend()));
        self.0.sql("write a fact down", text).bind(name).bind(value).run().await.map(|_| ())
    }

    /// Writes a fact down unless one of this name is known; tells whether it did. Of two at once exactly one does.
    pub async fn set_once(&self, name: &str, value: &str) -> Result<bool> {
        let text = format!("INSERT INTO store_facts (name, value, updated_at) VALUES (?, ?, {})", dialect::now(self.0.backend()));
        match self.0.sql("write a fact down", text).bind(name).bind(value).run().await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces a fact, provided it is still `old`; [`ErrorKind::Changed`] otherwise.
    pub async fn replace(&self, name: &str, old: &str, new: &str) -> Result<()> {
        let text =
            format!("UPDATE store_facts SET value = ?, updated_at = {} WHERE name = ? AND value = ?", dialect::now(self.0.backend()));
        match self.0.sql("replace a fact", text).bind(new).bind(name).bind(old).run().await? {
            0 => Err(Error::new(ErrorKind::Changed, "replace a fact", "it is not what it was").with("fact", name)),
            _ => Ok(()),
        }
    }

    /// Forgets a fact.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.0.sql("forget a fact", "DELETE FROM store_facts WHERE name = ?").bind(name).run().await.map(|_| ())
    }
}
