//! Saved credentials as people give and see them: what may be said, what is shown, what is refused.

use std::path::PathBuf;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::credentials::SecretString;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CloudConfig, LocalSite, VmwareCredential};

/// The longest name, in bytes: the width of the catalog's columns.
pub const MAX_CREDENTIAL_NAME: usize = 255;

/// A credential to be saved.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NewCredential {
    /// A vCenter.
    Vmware {
        /// Its name, unique among all credentials.
        name: String,
        /// The vCenter's host name or address.
        host: String,
        /// Who signs in there.
        username: String,
        /// The password; it is sealed before it is stored.
        password: SecretString,
        /// The datacenter, when it is always the same.
        datacenter: Option<String>,
    },
    /// A CloudStack.
    Cloudstack {
        /// Its name, unique among all credentials.
        name: String,
        /// The API's address, `https://HOST:PORT/client/api`, without any secret.
        url: String,
        /// The API key; it is sealed.
        api_key: SecretString,
        /// The secret key; it is sealed.
        secret_key: SecretString,
        /// The domain.
        domain: Option<String>,
        /// The zone.
        zone: Option<String>,
    },
    /// A folder of machines and volumes on this host.
    Local {
        /// Its name, unique among all credentials.
        name: String,
        /// The folder, with `machines` and `volumes` in it; an empty one becomes a site.
        path: PathBuf,
        /// Another folder for the volumes; it must exist.
        volumes: Option<PathBuf>,
    },
}

/// What is to change; `None` leaves a value as it is. A value that the credential's kind does not have is refused.
#[derive(Debug, Clone, Default)]
pub struct CredentialChange {
    /// Another name.
    pub name: Option<String>,
    /// The vCenter's host name.
    pub host: Option<String>,
    /// Who signs in to the vCenter.
    pub username: Option<String>,
    /// The vCenter's password.
    pub password: Option<SecretString>,
    /// The vCenter's datacenter.
    pub datacenter: Option<String>,
    /// The address of the cloud's API.
    pub url: Option<String>,
    /// The cloud's API key and secret key, which change together.
    pub keys: Option<(SecretString, SecretString)>,
    /// The cloud's domain.
    pub domain: Option<String>,
    /// The cloud's zone.
    pub zone: Option<String>,
    /// The folder of a local site.
    pub path: Option<PathBuf>,
    /// The folder of a local site's volumes.
    pub volumes: Option<PathBuf>,
}

/// A saved credential, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Credential {
    /// A vCenter.
    Vmware {
        /// The row's number.
        id: i64,
        /// Its name.
        name: String,
        /// The vCenter's host name.
        host: String,
        /// Who signs in.
        username: String,
        /// The datacenter.
        datacenter: Option<String>,
        /// Whether it is taken when none is named.
        is_default: bool,
        /// When it was last used.
        last_used: Option<Timestamp>,
        /// When it was saved.
        created_at: Timestamp,
        /// When it last changed.
        updated_at: Timestamp,
    },
    /// A CloudStack.
    Cloudstack {
        /// The row's number.
        id: i64,
        /// Its name.
        name: String,
        /// The API's address.
        url: String,
        /// The domain.
        domain: Option<String>,
        /// The zone.
        zone: Option<String>,
        /// Whether it is the one in use.
        is_default: bool,
        /// When it was saved.
        created_at: Timestamp,
        /// When it last changed.
        updated_at: Timestamp,
    },
    /// A local site.
    Local {
        /// The row's number.
        id: i64,
        /// Its name.
        name: String,
        /// The folder of its machines.
        machines: PathBuf,
        /// The folder that takes volumes.
        volumes: PathBuf,
        /// When it was saved.
        created_at: Timestamp,
        /// When it last changed.
        updated_at: Timestamp,
    },
}

impl Credential {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Credential::Vmware { name, .. } | Credential::Cloudstack { name, .. } | Credential::Local { name, .. } => name,
        }
    }

    /// Its kind: `vmware`, `cloudstack`, `local`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Credential::Vmware { .. } => "vmware",
            Credential::Cloudstack { .. } => "cloudstack",
            Credential::Local { .. } => "local",
        }
    }

    /// What it leads to: a host, an address, a folder.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Credential::Vmware { host, .. } => host.clone(),
            Credential::Cloudstack { url, .. } => url.clone(),
            Credential::Local { machines, .. } => machines.display().to_string(),
        }
    }

    /// Whether it is the one that is used when none is named.
    #[must_use]
    pub fn is_default(&self) -> bool {
        match self {
            Credential::Vmware { is_default, .. } | Credential::Cloudstack { is_default, .. } => *is_default,
            Credential::Local { .. } => false,
        }
    }

    /// When it last changed.
    #[must_use]
    pub fn updated_at(&self) -> Timestamp {
        match self {
            Credential::Vmware { updated_at, .. } | Credential::Cloudstack { updated_at, .. } | Credential::Local { updated_at, .. } => {
                *updated_at
            }
        }
    }
}

impl From<VmwareCredential> for Credential {
    fn from(row: VmwareCredential) -> Self {
        Credential::Vmware {
            id: row.id.get(),
            name: row.name,
            host: row.vcenter_host,
            username: row.username,
            datacenter: row.datacenter,
            is_default: row.is_default,
            last_used: row.last_used,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<CloudConfig> for Credential {
    fn from(row: CloudConfig) -> Self {
        Credential::Cloudstack {
            id: row.id.get(),
            name: row.name,
            url: row.api_url,
            domain: row.domain,
            zone: row.zone,
            is_default: row.is_active,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<LocalSite> for Credential {
    fn from(row: LocalSite) -> Self {
        Credential::Local {
            id: row.id.get(),
            name: row.name,
            machines: row.machines.into(),
            volumes: row.volumes.into(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// What a test of a credential found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// The credential's name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Whether the platform itself was asked. Else it is not known whether it takes the credential.
    pub reached: bool,
    /// What was tried and held, in order.
    pub passed: Vec<String>,
    /// What the platform has that cannot be used, with the reason; the credential works all the same.
    pub problems: Vec<String>,
    /// What this version cannot try, and says so instead of passing it.
    pub not_tried: Vec<String>,
}

/// Refuses a name that cannot be told from others, or not be typed.
pub(super) fn check_name(name: &str) -> Result<()> {
    let refuse = |text: &'static str| Err(wrong("name", name, text));
    match name {
        _ if name.is_empty() || name.trim() != name => refuse("it is empty, or begins or ends with a space"),
        _ if name.len() > MAX_CREDENTIAL_NAME => refuse("it is longer than 255 bytes"),
        _ if name.starts_with('-') => refuse("it begins with a dash, as an option does"),
        _ if name.chars().any(char::is_control) => refuse("it holds control characters"),
        _ => Ok(()),
    }
}

/// Refuses text of a credential that no platform could mean.
pub(super) fn check_text(what: &'static str, text: &str) -> Result<()> {
    let plain = !text.trim().is_empty() && text.len() <= MAX_CREDENTIAL_NAME && !text.chars().any(char::is_control);
    if plain { Ok(()) } else { Err(wrong(what, text, "it must have 1 to 255 bytes, and no control characters")) }
}

/// A host name or address, without scheme, user and path.
pub(super) fn check_host(host: &str) -> Result<()> {
    check_text("host", host)?;
    if host.contains(['/', '@', '?', '#', ' ']) {
        return Err(wrong("host", host, "give the host alone, without scheme, user and path"));
    }
    Ok(())
}

/// The address of a cloud's API. One with a user, a password or a query is refused and not shown: secrets hide there.
pub(super) fn check_url(url: &str) -> Result<()> {
    const READ: &str = "read the address of a cloud";
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    if url.contains(['@', '?', '#']) {
        let text = "it holds a user, a query or a fragment; give the address alone, and the keys by a file";
        return Err(Error::new(ErrorKind::InvalidInput, READ, text));
    }
    let plain = url.len() <= 500 && !url.chars().any(|c| c.is_control() || c.is_whitespace());
    if plain && host.is_some_and(|host| !host.is_empty()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, READ, "write it as https://HOST[:PORT]/client/api").with("url", shown(url)))
}

/// Refuses an empty secret: it would be a forgotten one.
pub(super) fn check_secret(what: &'static str, secret: &SecretString) -> Result<()> {
    if secret.expose().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "read a credential", "a secret is empty").with("secret", what));
    }
    Ok(())
}

impl CredentialChange {
    /// The first value given that a credential of `kind` does not have.
    pub(super) fn foreign_to(&self, kind: &'static str) -> Result<()> {
        let given = [
            ("host", "vmware", self.host.is_some()),
            ("username", "vmware", self.username.is_some()),
            ("password", "vmware", self.password.is_some()),
            ("datacenter", "vmware", self.datacenter.is_some()),
            ("url", "cloudstack", self.url.is_some()),
            ("keys", "cloudstack", self.keys.is_some()),
            ("domain", "cloudstack", self.domain.is_some()),
            ("zone", "cloudstack", self.zone.is_some()),
            ("path", "local", self.path.is_some()),
            ("volumes", "local", self.volumes.is_some()),
        ];
        if let Some((what, of, _)) = given.iter().find(|(_, of, is_given)| *is_given && *of != kind) {
            return Err(Error::new(ErrorKind::InvalidInput, "change a credential", "one of its kind has no such value")
                .with("value", what)
                .with("kind", kind)
                .with("belongs to", of));
        }
        if self.name.is_none() && !given.iter().any(|(_, _, is_given)| *is_given) {
            return Err(Error::new(ErrorKind::InvalidInput, "change a credential", "nothing is given that should change"));
        }
        Ok(())
    }
}

fn wrong(what: &'static str, text: &str, why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, "read a credential", why).with(what, shown(text))
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hosts_that_nobody_can_mean_are_refused_each_with_its_reason() {
        let long = "x".repeat(MAX_CREDENTIAL_NAME + 1);
        for (name, why) in [("", "empty"), (" a", "space"), ("-a", "dash"), ("a\nb", "control"), (long.as_str(), "longer")] {
            let error = check_name(name).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains(why), "{name:?}: {error}");
        }
        assert!(check_name("Prod vCenter 1").is_ok() && check_host("vc.example.org").is_ok());
        assert!(check_host("https://vc").unwrap_err().message().contains("alone"));
    }

    #[test]
    fn an_address_with_a_secret_in_it_is_refused_and_not_repeated() {
        for url in ["https://user:hunter2@cloud/client/api", "https://cloud/client/api?apikey=hunter2"] {
            let error = check_url(url).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        for url in ["cloud", "ftp://cloud/", "https:///client/api", "https://a b/"] {
            assert!(check_url(url).unwrap_err().message().contains("write it as"), "{url}");
        }
        assert!(check_url("http://127.0.0.1:8080/client/api").is_ok());
    }

    #[test]
    fn a_value_of_another_kind_is_refused_by_its_name() {
        let change = CredentialChange { password: Some("x".into()), ..CredentialChange::default() };
        let error = change.foreign_to("local").unwrap_err();
        assert_eq!((error.context_value("value"), error.context_value("belongs to")), (Some("password"), Some("vmware")));
        assert!(change.foreign_to("vmware").is_ok());
        assert!(CredentialChange::default().foreign_to("local").unwrap_err().message().contains("nothing"));
    }
}
