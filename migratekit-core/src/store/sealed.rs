//! The columns that hold sealed secrets, as a rotation of the key walks through them.

use super::Tx;
use crate::credentials::{RowIdentity, SealedRow};
use crate::error::{Error, ErrorKind, Result};

/// A column that holds sealed secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedColumn {
    /// A vCenter's password.
    VmwarePassword,
    /// A cloud's API key.
    CloudApiKey,
    /// A cloud's secret key.
    CloudSecretKey,
    /// The key of an old storage configuration, kept with its table.
    LinstorApiKey,
    /// The secret of such a one.
    LinstorApiSecret,
}

impl SealedColumn {
    /// Every one, in the order of a walk.
    pub const ALL: &'static [SealedColumn] = &[
        SealedColumn::VmwarePassword,
        SealedColumn::CloudApiKey,
        SealedColumn::CloudSecretKey,
        SealedColumn::LinstorApiKey,
        SealedColumn::LinstorApiSecret,
    ];

    /// Table and column.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            SealedColumn::VmwarePassword => ("vmware_credentials", "password_encrypted"),
            SealedColumn::CloudApiKey => ("ossea_configs", "api_key_encrypted"),
            SealedColumn::CloudSecretKey => ("ossea_configs", "secret_key_encrypted"),
            SealedColumn::LinstorApiKey => ("linstor_configs", "api_key_encrypted"),
            SealedColumn::LinstorApiSecret => ("linstor_configs", "api_secret_encrypted"),
        }
    }

    /// The place of the secret of the row with this number: what it is sealed for.
    #[must_use]
    pub fn of_row(self, id: i64) -> RowIdentity {
        let (table, column) = self.place();
        RowIdentity::new(table, column, id)
    }

    fn of(row: &RowIdentity) -> Result<(usize, i64)> {
        let known = SealedColumn::ALL.iter().position(|column| column.place() == (row.table(), row.column()));
        known.zip(row.key().parse().ok()).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "find a sealed secret", "the catalog has no such place for secrets").with("place", row)
        })
    }
}

/// The sealed secrets, in one transaction.
#[derive(Debug)]
pub struct SealedSecrets<'t>(&'t Tx);

impl Tx {
    /// The sealed secrets.
    #[must_use]
    pub fn sealed(&self) -> SealedSecrets<'_> {
        SealedSecrets(self)
    }
}

impl SealedSecrets<'_> {
    /// Up to `limit` secrets behind `after` that do not begin with `prefix`, column by column, by row.
    pub async fn next_batch(&self, after: Option<&RowIdentity>, prefix: &str, limit: usize) -> Result<Vec<SealedRow>> {
        let (from, mut behind) = after.map(SealedColumn::of).transpose()?.unwrap_or((0, 0));
        let mut found: Vec<SealedRow> = Vec::new();
        for column in SealedColumn::ALL.iter().skip(from) {
            let (table, name) = column.place();
            // All parts of the text are constants of this file.
            let text = format!(
                "SELECT id, {name} AS sealed FROM {table} WHERE id > ? AND {name} <> '' AND SUBSTR({name}, 1, ?) <> ? ORDER BY id LIMIT ?"
            );
            let query = self.0.sql("list sealed secrets", text).bind(behind).bind(prefix.len()).bind(prefix).bind(limit - found.len());
            found.extend(query.all(|row| Ok(SealedRow { row: column.of_row(row.int("id")?), sealed: row.text("sealed")? })).await?);
            if found.len() >= limit {
                break;
            }
            behind = 0;
        }
        Ok(found)
    }

    /// Replaces a secret if it still is `expected`; false when it is not, or the row is gone.
    pub async fn replace(&self, row: &RowIdentity, expected: &str, new: &str) -> Result<bool> {
        let (column, id) = SealedColumn::of(row)?;
        let Some((table, name)) = SealedColumn::ALL.get(column).map(|column| column.place()) else { return Ok(false) };
        let text = format!("UPDATE {table} SET {name} = ? WHERE id = ? AND {name} = ?");
        Ok(self.0.sql("seal a secret anew", text).bind(new).bind(id).bind(expected).run().await? > 0)
    }
}
