//! What the catalog and its key are like, for a check of the host: looked at without making or changing anything.

use serde::Serialize;

use super::key;
use crate::credentials::{KeyPlace, Vault, WhenMissing};
use crate::error::{Error, ErrorKind};
use crate::store::{Store, StoreOptions};

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Good,
    /// Not there yet; it is made on first use.
    Absent,
    /// The verbs that need it will fail.
    Bad,
}

/// One line of the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What was looked at: `catalog`, `key`.
    pub what: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found, or why it could not be used.
    pub found: String,
}

/// Looks at the catalog at `url` and at the key that belongs to it. Makes nothing, brings no schema up to date.
pub async fn diagnose(url: &str, options: StoreOptions, place: KeyPlace) -> Vec<Diagnosis> {
    let line = |what, health, found: String| Diagnosis { what, health, found };
    let store = match Store::open(url, options.create(false).migrate(false)).await {
        Ok(store) => store,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = key_alone(place).await;
            return vec![line("catalog", Health::Absent, format!("{url}: not made yet")), key];
        }
        Err(error) => return vec![line("catalog", Health::Bad, error.to_string()), key_alone(place).await],
    };
    let catalog = match store.schema_status().await {
        Ok(schema) if schema.pending.is_empty() => {
            line("catalog", Health::Good, format!("{}, schema {}", store.url(), version(&schema.applied)))
        }
        Ok(schema) => {
            line("catalog", Health::Absent, format!("{}, {} migrations to be applied on first use", store.url(), schema.pending.len()))
        }
        Err(error) => line("catalog", Health::Bad, error.to_string()),
    };
    let key = key_of(&store, place).await;
    store.close().await;
    vec![catalog, key]
}

/// How the key of a place is, for this catalog. Makes none.
pub async fn key_of(store: &Store, place: KeyPlace) -> Diagnosis {
    let line = |health, found| Diagnosis { what: "key", health, found };
    match key::check_value(store).await {
        Ok(Some(check)) => match Vault::load(place, WhenMissing::Refuse).await.and_then(|vault| vault.verify(&check).map(|()| vault)) {
            Ok(vault) => line(Health::Good, format!("{}, and the catalog's", vault.fingerprint())),
            Err(error) => line(Health::Bad, error.to_string()),
        },
        Ok(None) => key_alone(place).await,
        Err(error) => line(Health::Bad, error.to_string()),
    }
}

async fn key_alone(place: KeyPlace) -> Diagnosis {
    match Vault::load(place, WhenMissing::Refuse).await {
        Ok(vault) => {
            Diagnosis { what: "key", health: Health::Good, found: format!("{}, nothing is sealed with it yet", vault.fingerprint()) }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Diagnosis { what: "key", health: Health::Absent, found: "not made yet".to_owned() }
        }
        Err(error) => bad_key(&error),
    }
}

fn bad_key(error: &Error) -> Diagnosis {
    Diagnosis { what: "key", health: Health::Bad, found: error.to_string() }
}

fn version<T>(applied: &[(String, T)]) -> &str {
    applied.last().map_or("none", |(version, _)| version.as_str())
}
