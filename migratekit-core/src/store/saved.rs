//! What is saved to reach a platform: vCenter credentials, cloud configurations, local sites. Secrets arrive and leave sealed.

use super::row::Row;
use super::{Tx, dialect};
use crate::error::Result;
use crate::id::{CloudConfigId, CredentialId, SiteId};
use crate::model::{CloudConfig, LocalSite, SealedText, VmwareCredential};

/// A vCenter credential to be saved. Its password is sealed for its row, so it is set once the row has its number.
#[derive(Debug, Clone, Copy)]
pub struct NewVmwareCredential<'a> {
    /// Its name, unique.
    pub name: &'a str,
    /// The vCenter's host name.
    pub vcenter_host: &'a str,
    /// Who signs in there.
    pub username: &'a str,
    /// The datacenter, when it is always the same.
    pub datacenter: Option<&'a str>,
    /// Who saves it.
    pub created_by: Option<&'a str>,
}

/// A cloud configuration to be saved; its keys are set once the row has its number.
#[derive(Debug, Clone, Copy)]
pub struct NewCloudConfig<'a> {
    /// Its name, unique.
    pub name: &'a str,
    /// The API's address.
    pub api_url: &'a str,
    /// The domain.
    pub domain: Option<&'a str>,
    /// The zone.
    pub zone: Option<&'a str>,
}

/// The vCenter credentials, in one transaction.
#[derive(Debug)]
pub struct Credentials<'t>(&'t Tx);

/// The cloud configurations, in one transaction.
#[derive(Debug)]
pub struct CloudConfigs<'t>(&'t Tx);

/// The local sites, in one transaction.
#[derive(Debug)]
pub struct Sites<'t>(&'t Tx);

impl Tx {
    /// Saved vCenter credentials.
    #[must_use]
    pub fn credentials(&self) -> Credentials<'_> {
        Credentials(self)
    }

    /// Saved cloud configurations.
    #[must_use]
    pub fn cloud_configs(&self) -> CloudConfigs<'_> {
        CloudConfigs(self)
    }

    /// Saved local sites.
    #[must_use]
    pub fn sites(&self) -> Sites<'_> {
        Sites(self)
    }
}

const VMWARE: &str = "SELECT id, credential_name, vcenter_host, username, password_encrypted, datacenter, enrollment_id, is_active, is_default, \
                      created_by, last_used, usage_count, created_at, updated_at FROM vmware_credentials";

impl Credentials<'_> {
    /// All, by name.
    pub async fn all(&self) -> Result<Vec<VmwareCredential>> {
        self.0.sql("list credentials", format!("{VMWARE} ORDER BY credential_name")).all(vmware).await
    }

    /// The one of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<VmwareCredential>> {
        self.0.sql("read a credential", format!("{VMWARE} WHERE credential_name = ?")).bind(name).first(vmware).await
    }

    /// The one of this number.
    pub async fn get(&self, id: CredentialId) -> Result<Option<VmwareCredential>> {
        self.0.sql("read a credential", format!("{VMWARE} WHERE id = ?")).bind(id).first(vmware).await
    }

    /// Saves one, without its password; [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the name is taken.
    pub async fn insert(&self, new: &NewVmwareCredential<'_>) -> Result<CredentialId> {
        let now = dialect::now(self.0.backend());
        let text = format!(
            "INSERT INTO vmware_credentials (credential_name, vcenter_host, username, password_encrypted, datacenter, created_by, \
             created_at, updated_at) VALUES (?, ?, ?, '', ?, ?, {now}, {now}) RETURNING id"
        );
        let insert = self.0.sql("save a credential", text).bind(new.name).bind(new.vcenter_host).bind(new.username);
        insert.bind(new.datacenter).bind(new.created_by).one("the row has no number", |row| row.number("id")).await
    }

    /// Writes all that people may change.
    pub async fn update(&self, row: &VmwareCredential) -> Result<()> {
        let text = format!(
            "UPDATE vmware_credentials SET credential_name = ?, vcenter_host = ?, username = ?, password_encrypted = ?, datacenter = ?, \
             enrollment_id = ?, is_active = ?, updated_at = {} WHERE id = ?",
            dialect::now(self.0.backend())
        );
        let update =
            self.0.sql("change a credential", text).bind(&row.name).bind(&row.vcenter_host).bind(&row.username).bind(&row.password);
        let update = update.bind(row.datacenter.as_ref()).bind(row.enrollment.as_ref()).bind(row.is_active).bind(row.id);
        update.run_found("there is no such credential").await
    }

    /// Sets the sealed password of a row.
    pub async fn set_password(&self, id: CredentialId, password: &SealedText) -> Result<()> {
        let set = self.0.sql("save a credential", "UPDATE vmware_credentials SET password_encrypted = ? WHERE id = ?");
        set.bind(password).bind(id).run_found("there is no such credential").await
    }

    /// Makes it the only default.
    pub async fn set_default(&self, id: CredentialId) -> Result<()> {
        let text = format!(
            "UPDATE vmware_credentials SET is_default = CASE WHEN id = ? THEN 1 ELSE 0 END, updated_at = {} WHERE id = ? OR is_default = 1",
            dialect::now(self.0.backend())
        );
        self.0.sql("set the default credential", text).bind(id).bind(id).run_found("there is no such credential").await
    }

    /// Counts a use of it.
    pub async fn used(&self, id: CredentialId) -> Result<()> {
        let text = format!(
            "UPDATE vmware_credentials SET usage_count = usage_count + 1, last_used = {} WHERE id = ?",
            dialect::now(self.0.backend())
        );
        self.0.sql("count the use of a credential", text).bind(id).run_found("there is no such credential").await
    }

    /// How many VMs under management are reached with it.
    pub async fn uses(&self, id: CredentialId) -> Result<u64> {
        let count =
            self.0.sql("count the uses of a credential", "SELECT COUNT(*) AS uses FROM vm_replication_contexts WHERE credential_id = ?");
        count.bind(id).one("there is no count", |row| row.number::<u64>("uses")).await
    }

    /// Removes it.
    pub async fn remove(&self, id: CredentialId) -> Result<()> {
        let remove = self.0.sql("remove a credential", "DELETE FROM vmware_credentials WHERE id = ?");
        remove.bind(id).run_found("there is no such credential").await
    }
}

fn vmware(row: &Row) -> Result<VmwareCredential> {
    Ok(VmwareCredential {
        id: row.number("id")?,
        name: row.text("credential_name")?,
        vcenter_host: row.text("vcenter_host")?,
        username: row.text("username")?,
        password: SealedText::new(row.text("password_encrypted")?),
        datacenter: row.text_or_none("datacenter")?,
        enrollment: row.parse_or_none("enrollment_id")?,
        is_active: row.flag("is_active")?,
        is_default: row.flag("is_default")?,
        created_by: row.text_or_none("created_by")?,
        last_used: row.time_or_none("last_used")?,
        usage_count: row.number("usage_count")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

const CLOUD: &str = "SELECT id, name, api_url, api_key_encrypted, secret_key_encrypted, domain, zone, template_id, network_id, \
                     service_offering_id, disk_offering_id, oma_vm_id, is_active, created_at, updated_at FROM ossea_configs";

impl CloudConfigs<'_> {
    /// All, by name.
    pub async fn all(&self) -> Result<Vec<CloudConfig>> {
        self.0.sql("list cloud configurations", format!("{CLOUD} ORDER BY name")).all(cloud).await
    }

    /// The one of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<CloudConfig>> {
        self.0.sql("read a cloud configuration", format!("{CLOUD} WHERE name = ?")).bind(name).first(cloud).await
    }

    /// Saves one, without its keys and not in use; [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the name is taken.
    pub async fn insert(&self, new: &NewCloudConfig<'_>) -> Result<CloudConfigId> {
        let now = dialect::now(self.0.backend());
        let text = format!(
            "INSERT INTO ossea_configs (name, api_url, api_key_encrypted, secret_key_encrypted, domain, zone, is_active, created_at, \
             updated_at) VALUES (?, ?, '', '', ?, ?, 0, {now}, {now}) RETURNING id"
        );
        let insert = self.0.sql("save a cloud configuration", text).bind(new.name).bind(new.api_url).bind(new.domain).bind(new.zone);
        insert.one("the row has no number", |row| row.number("id")).await
    }

    /// Writes all that people may change.
    pub async fn update(&self, row: &CloudConfig) -> Result<()> {
        let text = format!(
            "UPDATE ossea_configs SET name = ?, api_url = ?, domain = ?, zone = ?, template_id = ?, network_id = ?, service_offering_id = ?, \
             disk_offering_id = ?, oma_vm_id = ?, updated_at = {} WHERE id = ?",
            dialect::now(self.0.backend())
        );
        let update = self.0.sql("change a cloud configuration", text).bind(&row.name).bind(&row.api_url).bind(row.domain.as_ref());
        let update = update.bind(row.zone.as_ref()).bind(row.template_id.as_ref()).bind(row.network_id.as_ref());
        let update = update.bind(row.service_offering_id.as_ref()).bind(row.disk_offering_id.as_ref()).bind(row.oma_vm_id.as_ref());
        update.bind(row.id).run_found("there is no such cloud configuration").await
    }

    /// Sets the sealed keys of a row.
    pub async fn set_keys(&self, id: CloudConfigId, api_key: &SealedText, secret_key: &SealedText) -> Result<()> {
        let text = "UPDATE ossea_configs SET api_key_encrypted = ?, secret_key_encrypted = ? WHERE id = ?";
        let set = self.0.sql("save a cloud configuration", text).bind(api_key).bind(secret_key).bind(id);
        set.run_found("there is no such cloud configuration").await
    }

    /// Makes it the only one in use.
    pub async fn set_active(&self, id: CloudConfigId) -> Result<()> {
        let text = format!(
            "UPDATE ossea_configs SET is_active = CASE WHEN id = ? THEN 1 ELSE 0 END, updated_at = {} WHERE id = ? OR is_active = 1",
            dialect::now(self.0.backend())
        );
        self.0.sql("choose a cloud configuration", text).bind(id).bind(id).run_found("there is no such cloud configuration").await
    }

    /// How many VMs under management have their replica there.
    pub async fn uses(&self, id: CloudConfigId) -> Result<u64> {
        let text = "SELECT COUNT(*) AS uses FROM vm_replication_contexts WHERE ossea_config_id = ?";
        self.0.sql("count the uses of a cloud", text).bind(id).one("there is no count", |row| row.number::<u64>("uses")).await
    }

    /// Removes it.
    pub async fn remove(&self, id: CloudConfigId) -> Result<()> {
        let remove = self.0.sql("remove a cloud configuration", "DELETE FROM ossea_configs WHERE id = ?");
        remove.bind(id).run_found("there is no such cloud configuration").await
    }
}

fn cloud(row: &Row) -> Result<CloudConfig> {
    Ok(CloudConfig {
        id: row.number("id")?,
        name: row.text("name")?,
        api_url: row.text("api_url")?,
        api_key: SealedText::new(row.text("api_key_encrypted")?),
        secret_key: SealedText::new(row.text("secret_key_encrypted")?),
        domain: row.text_or_none("domain")?,
        zone: row.text_or_none("zone")?,
        template_id: row.text_or_none("template_id")?,
        network_id: row.text_or_none("network_id")?,
        service_offering_id: row.text_or_none("service_offering_id")?,
        disk_offering_id: row.text_or_none("disk_offering_id")?,
        oma_vm_id: row.text_or_none("oma_vm_id")?,
        is_active: row.flag("is_active")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

const SITE: &str = "SELECT id, name, machines_path, volumes_path, created_at, updated_at FROM local_sites";

impl Sites<'_> {
    /// All, by name.
    pub async fn all(&self) -> Result<Vec<LocalSite>> {
        self.0.sql("list local sites", format!("{SITE} ORDER BY name")).all(site).await
    }

    /// The one of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<LocalSite>> {
        self.0.sql("read a local site", format!("{SITE} WHERE name = ?")).bind(name).first(site).await
    }

    /// The one of this number.
    pub async fn get(&self, id: SiteId) -> Result<Option<LocalSite>> {
        self.0.sql("read a local site", format!("{SITE} WHERE id = ?")).bind(id).first(site).await
    }

    /// Saves one; [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the name is taken.
    pub async fn insert(&self, name: &str, machines: &str, volumes: &str) -> Result<SiteId> {
        let now = dialect::now(self.0.backend());
        let text = format!(
            "INSERT INTO local_sites (name, machines_path, volumes_path, created_at, updated_at) VALUES (?, ?, ?, {now}, {now}) RETURNING id"
        );
        self.0
            .sql("save a local site", text)
            .bind(name)
            .bind(machines)
            .bind(volumes)
            .one("the row has no number", |row| row.number("id"))
            .await
    }

    /// Writes all that people may change.
    pub async fn update(&self, row: &LocalSite) -> Result<()> {
        let text = format!(
            "UPDATE local_sites SET name = ?, machines_path = ?, volumes_path = ?, updated_at = {} WHERE id = ?",
            dialect::now(self.0.backend())
        );
        let update = self.0.sql("change a local site", text).bind(&row.name).bind(&row.machines).bind(&row.volumes).bind(row.id);
        update.run_found("there is no such site").await
    }

    /// How many VMs under management live there.
    pub async fn uses(&self, id: SiteId) -> Result<u64> {
        let text = "SELECT COUNT(*) AS uses FROM vm_replication_contexts WHERE local_site_id = ?";
        self.0.sql("count the uses of a site", text).bind(id).one("there is no count", |row| row.number::<u64>("uses")).await
    }

    /// Removes it.
    pub async fn remove(&self, id: SiteId) -> Result<()> {
        self.0.sql("remove a local site", "DELETE FROM local_sites WHERE id = ?").bind(id).run_found("there is no such site").await
    }
}

fn site(row: &Row) -> Result<LocalSite> {
    Ok(LocalSite {
        id: row.number("id")?,
        name: row.text("name")?,
        machines: row.text("machines_path")?,
        volumes: row.text("volumes_path")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
