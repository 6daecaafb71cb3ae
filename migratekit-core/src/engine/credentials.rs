//! Saved credentials: sealed before they are stored, shown without their secrets, opened for the one who uses them.
//!
//! Names are unique over all kinds, so that one name means one thing on a command line. A secret is sealed for its very row, in the
//! transaction that writes the row and checks that the catalog's key is the one it is sealed with; a rotation in another process is
//! met by reading the keys again and sealing again, once.

use std::path::Path;

use super::Engine;
use super::credential::{Credential, CredentialChange, NewCredential, Tested, check_host, check_name, check_secret, check_text, check_url};
use crate::credentials::{SecretString, Vault};
use crate::error::{Error, ErrorKind, Result};
use crate::id::CloudConfigId;
use crate::inventory::Origin;
use crate::model::{CloudConfig, LocalSite, SealedText, VmwareCredential};
use crate::platform::{Inventory, local};
use crate::store::{NewCloudConfig, NewVmwareCredential, SealedColumn, Tx};

const READ: &str = "read the saved credentials";

/// The credentials of an engine's catalog.
#[derive(Debug, Clone)]
pub struct Credentials {
    engine: Engine,
}

/// A saved row of whichever kind.
enum Row {
    Vmware(VmwareCredential),
    Cloudstack(CloudConfig),
    Local(LocalSite),
}

/// A local site: its row, and the folders behind it.
pub(super) struct Site {
    pub(super) row: LocalSite,
    pub(super) site: local::LocalSite,
}

/// Where a site's machines are found, as their contexts keep it.
pub(super) fn origin(row: &LocalSite) -> Origin {
    Origin { host: row.name.clone(), site: Some(row.id) }
}

impl From<Row> for Credential {
    fn from(row: Row) -> Self {
        match row {
            Row::Vmware(row) => row.into(),
            Row::Cloudstack(row) => row.into(),
            Row::Local(row) => row.into(),
        }
    }
}

impl Credentials {
    pub(super) fn of(engine: &Engine) -> Self {
        Credentials { engine: engine.clone() }
    }

    /// Saves one. A local site's folder is opened, and becomes a site when it is empty.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when one of any kind has this name; [`ErrorKind::InvalidInput`] for what no platform could mean; those
    /// of opening a site.
    pub async fn add(&self, new: NewCredential) -> Result<Credential> {
        let (name, folders) = match &new {
            NewCredential::Vmware { name, host, username, password, .. } => {
                check_host(host)?;
                check_text("username", username)?;
                check_secret("password", password)?;
                (name.clone(), None)
            }
            NewCredential::Cloudstack { name, url, api_key, secret_key, .. } => {
                check_url(url)?;
                check_secret("API key", api_key)?;
                check_secret("secret key", secret_key)?;
                (name.clone(), None)
            }
            NewCredential::Local { name, path, volumes } => {
                check_name(name)?;
                (name.clone(), Some(open_folders(path, volumes.as_deref()).await?))
            }
        };
        check_name(&name)?;
        let (new, name, folders) = (&new, &name, &folders);
        self.engine
            .sealing("save a credential", |tx, vault| async move {
                if find(&tx, name).await?.is_some() {
                    let text = "a credential of this name is saved already; choose another name, or change that one";
                    return Err(Error::new(ErrorKind::AlreadyExists, "save a credential", text).with("name", name));
                }
                insert(&tx, &vault, new, folders.as_ref()).await
            })
            .await?;
        self.get(name).await
    }

    /// All of them, by kind and name.
    pub async fn list(&self) -> Result<Vec<Credential>> {
        let all = self.engine.store().read(READ, |tx| async move {
            let mut all: Vec<Credential> = tx.credentials().all().await?.into_iter().map(Credential::from).collect();
            all.extend(tx.cloud_configs().all().await?.into_iter().map(Credential::from));
            all.extend(tx.sites().all().await?.into_iter().map(Credential::from));
            Ok(all)
        });
        all.await
    }

    /// The one of this name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub async fn get(&self, name: &str) -> Result<Credential> {
        self.row(name).await.map(Credential::from)
    }

    async fn row(&self, name: &str) -> Result<Row> {
        let found = self.engine.store().read(READ, |tx| async move { find(&tx, name).await }).await?;
        found.ok_or_else(|| missing(name))
    }

    /// Changes what is given, and leaves the rest. A local site's folders are opened first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`] when the new name is taken; [`ErrorKind::InvalidInput`] for a value that its
    /// kind does not have, or nothing to change.
    pub async fn update(&self, name: &str, change: CredentialChange) -> Result<Credential> {
        let row = self.row(name).await?;
        check_change(&row, &change)?;
        let folders = match (&row, &change.path, &change.volumes) {
            (Row::Local(_), Some(path), volumes) => Some(open_folders(path, volumes.as_deref()).await?),
            (Row::Local(row), None, Some(volumes)) => Some(local::LocalSite::of(&row.machines, volumes).await?),
            _ => None,
        };
        let new_name = change.name.clone().unwrap_or_else(|| name.to_owned());
        let (change, folders, new_name) = (&change, &folders, &new_name);
        self.engine
            .sealing("change a credential", |tx, vault| async move {
                let row = find(&tx, name).await?.ok_or_else(|| missing(name))?;
                if new_name != name && find(&tx, new_name).await?.is_some() {
                    let text = "another credential has this name";
                    return Err(Error::new(ErrorKind::AlreadyExists, "change a credential", text).with("name", new_name));
                }
                apply(&tx, &vault, row, change, new_name, folders.as_ref()).await
            })
            .await?;
        self.get(new_name).await
    }

    /// Removes one that nothing uses; gives what it was.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`] while VMs are managed by it.
    pub async fn remove(&self, name: &str) -> Result<Credential> {
        let removed = self.engine.store().write("remove a credential", |tx| async move {
            let row = find(&tx, name).await?.ok_or_else(|| missing(name))?;
            let users = match &row {
                Row::Vmware(row) => tx.credentials().uses(row.id).await?,
                Row::Cloudstack(row) => tx.cloud_configs().uses(row.id).await?,
                Row::Local(row) => tx.sites().uses(row.id).await?,
            };
            if users > 0 {
                let text = "VMs under management use it; remove those first";
                return Err(Error::new(ErrorKind::Busy, "remove a credential", text).with("name", name).with("VMs", users));
            }
            match &row {
                Row::Vmware(row) => tx.credentials().remove(row.id).await?,
                Row::Cloudstack(row) => tx.cloud_configs().remove(row.id).await?,
                Row::Local(row) => tx.sites().remove(row.id).await?,
            }
            Ok(row)
        });
        removed.await.map(Credential::from)
    }

    /// Makes it the one of its kind that is taken when none is named.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Unsupported`] for a local site: each verb names its site.
    pub async fn set_default(&self, name: &str) -> Result<Credential> {
        const SET: &str = "set the default credential";
        let set = self.engine.store().write(SET, |tx| async move {
            match find(&tx, name).await?.ok_or_else(|| missing(name))? {
                Row::Vmware(row) => tx.credentials().set_default(row.id).await,
                Row::Cloudstack(row) => tx.cloud_configs().set_active(row.id).await,
                Row::Local(_) => {
                    Err(Error::new(ErrorKind::Unsupported, SET, "a local site is always named; there is no default").with("name", name))
                }
            }
        });
        set.await?;
        self.get(name).await
    }

    /// Tries it, as far as this version can: its secrets are opened, a site's machines are read. What is not tried is said, and whether
    /// the platform itself was asked ([`Tested::reached`]).
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub async fn test(&self, name: &str) -> Result<Tested> {
        let row = self.row(name).await?;
        let (mut passed, mut problems, mut not_tried) = (Vec::new(), Vec::new(), Vec::new());
        let kind = match &row {
            Row::Vmware(row) => {
                self.engine.open_sealed(&SealedColumn::VmwarePassword.of_row(row.id.get()), row.password.as_str()).await?;
                passed.push("the saved password opens with the present key".to_owned());
                not_tried.push(format!("signing in to {}: this version does not speak to a vCenter yet", row.vcenter_host));
                "vmware"
            }
            Row::Cloudstack(row) => {
                self.engine.open_sealed(&SealedColumn::CloudApiKey.of_row(row.id.get()), row.api_key.as_str()).await?;
                self.engine.open_sealed(&SealedColumn::CloudSecretKey.of_row(row.id.get()), row.secret_key.as_str()).await?;
                passed.push("the saved API key and secret key open with the present key".to_owned());
                not_tried.push(format!("a request to {}: this version does not speak to a CloudStack yet", row.api_url));
                "cloudstack"
            }
            Row::Local(row) => {
                let site = local::LocalSite::of(&row.machines, &row.volumes).await?;
                passed.push("both folders are there".to_owned());
                let machines = site.machines().await?;
                let bad = machines.iter().filter_map(|entry| Some(format!("{}: {}", entry.place, entry.machine.as_ref().err()?)));
                problems.extend(bad);
                passed.push(format!("{} of {} machines can be read", machines.len() - problems.len(), machines.len()));
                "local"
            }
        };
        Ok(Tested { name: name.to_owned(), kind, reached: not_tried.is_empty(), passed, problems, not_tried })
    }

    /// A local site, opened.
    pub(super) async fn open_site(&self, name: &str) -> Result<Site> {
        match self.row(name).await? {
            Row::Local(row) => {
                let site = local::LocalSite::of(&row.machines, &row.volumes).await.map_err(|e| e.with("site", name))?;
                Ok(Site { row, site })
            }
            Row::Vmware(_) => Err(unread(name, "vmware")),
            Row::Cloudstack(_) => Err(unread(name, "cloudstack")),
        }
    }
}

fn unread(name: &str, kind: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "look at a source", "this version reads machines of local sites only")
        .with("name", name)
        .with("kind", kind)
}

fn missing(name: &str) -> Error {
    let text = "no credential of this name is saved; `migratekit credential list` shows those that are";
    Error::new(ErrorKind::NotFound, "find a credential", text).with("name", name)
}

async fn open_folders(path: &Path, volumes: Option<&Path>) -> Result<local::LocalSite> {
    let site = local::LocalSite::open(path).await?;
    match volumes {
        Some(volumes) => local::LocalSite::of(site.machines_folder(), volumes).await,
        None => Ok(site),
    }
}

/// The row of this name, of whichever kind.
async fn find(tx: &Tx, name: &str) -> Result<Option<Row>> {
    if let Some(row) = tx.credentials().by_name(name).await? {
        return Ok(Some(Row::Vmware(row)));
    }
    if let Some(row) = tx.cloud_configs().by_name(name).await? {
        return Ok(Some(Row::Cloudstack(row)));
    }
    Ok(tx.sites().by_name(name).await?.map(Row::Local))
}

/// A sealed secret of a row, as its column holds it.
fn seal(vault: &Vault, column: SealedColumn, id: i64, secret: &SecretString) -> Result<SealedText> {
    Ok(SealedText::new(vault.seal(&column.of_row(id), secret)?.to_string()))
}

async fn insert(tx: &Tx, vault: &Vault, new: &NewCredential, folders: Option<&local::LocalSite>) -> Result<()> {
    match new {
        NewCredential::Vmware { name, host, username, password, datacenter } => {
            let row = NewVmwareCredential { name, vcenter_host: host, username, datacenter: datacenter.as_deref(), created_by: None };
            let id = tx.credentials().insert(&row).await?;
            tx.credentials().set_password(id, &seal(vault, SealedColumn::VmwarePassword, id.get(), password)?).await
        }
        NewCredential::Cloudstack { name, url, api_key, secret_key, domain, zone } => {
            let row = NewCloudConfig { name, api_url: url, domain: domain.as_deref(), zone: zone.as_deref() };
            let id = tx.cloud_configs().insert(&row).await?;
            set_keys(tx, vault, id, api_key, secret_key).await
        }
        NewCredential::Local { name, .. } => {
            let (machines, volumes) = texts(folders)?;
            tx.sites().insert(name, &machines, &volumes).await.map(|_| ())
        }
    }
}

async fn set_keys(tx: &Tx, vault: &Vault, id: CloudConfigId, api_key: &SecretString, secret_key: &SecretString) -> Result<()> {
    let api_key = seal(vault, SealedColumn::CloudApiKey, id.get(), api_key)?;
    tx.cloud_configs().set_keys(id, &api_key, &seal(vault, SealedColumn::CloudSecretKey, id.get(), secret_key)?).await
}

/// The folders of a site as the catalog keeps them.
fn texts(folders: Option<&local::LocalSite>) -> Result<(String, String)> {
    let text = |path: &Path| path.to_str().map(str::to_owned);
    folders
        .and_then(|site| text(site.machines_folder()).zip(text(site.volumes_folder())))
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "save a local site", "the paths of its folders must be plain text (UTF-8)"))
}

fn check_change(row: &Row, change: &CredentialChange) -> Result<()> {
    change.foreign_to(match row {
        Row::Vmware(_) => "vmware",
        Row::Cloudstack(_) => "cloudstack",
        Row::Local(_) => "local",
    })?;
    change.name.as_deref().map_or(Ok(()), check_name)?;
    change.host.as_deref().map_or(Ok(()), check_host)?;
    change.username.as_deref().map_or(Ok(()), |text| check_text("username", text))?;
    change.url.as_deref().map_or(Ok(()), check_url)?;
    change.password.as_ref().map_or(Ok(()), |secret| check_secret("password", secret))?;
    change.keys.as_ref().map_or(Ok(()), |(api, secret)| check_secret("API key", api).and_then(|()| check_secret("secret key", secret)))
}

async fn apply(tx: &Tx, vault: &Vault, row: Row, change: &CredentialChange, name: &str, folders: Option<&local::LocalSite>) -> Result<()> {
    let new = |value: &Option<String>, old: String| value.clone().unwrap_or(old);
    match row {
        Row::Vmware(old) => {
            let id = old.id;
            let password = match &change.password {
                Some(password) => seal(vault, SealedColumn::VmwarePassword, id.get(), password)?,
                None => old.password.clone(),
            };
            let row = VmwareCredential {
                name: name.to_owned(),
                vcenter_host: new(&change.host, old.vcenter_host.clone()),
                username: new(&change.username, old.username.clone()),
                password,
                datacenter: change.datacenter.clone().or(old.datacenter.clone()),
                ..old
            };
            tx.credentials().update(&row).await
        }
        Row::Cloudstack(old) => {
            if let Some((api_key, secret_key)) = &change.keys {
                set_keys(tx, vault, old.id, api_key, secret_key).await?;
            }
            let row = CloudConfig {
                name: name.to_owned(),
                api_url: new(&change.url, old.api_url.clone()),
                domain: change.domain.clone().or(old.domain.clone()),
                zone: change.zone.clone().or(old.zone.clone()),
                ..old
            };
            tx.cloud_configs().update(&row).await
        }
        Row::Local(old) => {
            if name != old.name && tx.sites().uses(old.id).await? > 0 {
                let text = "VMs under management are known by the site's name; it can be changed only while there are none";
                return Err(Error::new(ErrorKind::Busy, "change a credential", text).with("name", old.name));
            }
            let (machines, volumes) = match folders {
                Some(_) => texts(folders)?,
                None => (old.machines.clone(), old.volumes.clone()),
            };
            tx.sites().update(&LocalSite { name: name.to_owned(), machines, volumes, ..old }).await
        }
    }
}
