//! Machine groups and who is in them: `vm_machine_groups`, `vm_group_memberships`.

use super::Tx;
use super::contexts::MAX_PAGE;
use super::row::Row;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ContextId, GroupId};
use crate::model::{Group, Membership};

/// Machine groups, in one transaction.
#[derive(Debug)]
pub struct Groups<'t>(&'t Tx);

impl Tx {
    /// Machine groups.
    #[must_use]
    pub fn groups(&self) -> Groups<'_> {
        Groups(self)
    }
}

const GROUP: &str = "id, name, description, schedule_id, max_concurrent_vms, priority, created_by, created_at, updated_at";
const MEMBER: &str = "id, group_id, vm_context_id, enabled, priority, schedule_override_id, added_at";

impl Groups<'_> {
    /// Writes a new group down. [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the name is taken.
    pub async fn add(&self, group: &Group) -> Result<()> {
        let text = format!("INSERT INTO vm_machine_groups ({GROUP}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let statement = self.0.sql("add a group", text).bind(&group.id).bind(&group.name).bind(group.description.as_ref());
        let statement = statement.bind(group.schedule.as_ref()).bind(group.max_concurrent_vms).bind(group.priority);
        statement.bind(group.created_by.as_ref()).bind(group.created_at).bind(group.updated_at).run().await.map(|_| ())
    }

    /// The group of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<Group>> {
        self.0.sql("look for a group", format!("SELECT {GROUP} FROM vm_machine_groups WHERE name = ?")).bind(name).first(group).await
    }

    /// All groups in their turn, at most 1000.
    pub async fn all(&self) -> Result<Vec<Group>> {
        let text = format!("SELECT {GROUP} FROM vm_machine_groups ORDER BY priority, name LIMIT {MAX_PAGE}");
        self.0.sql("list the groups", text).all(group).await
    }

    /// Changes a group to what is given; its maker and the time of its making stay.
    pub async fn update(&self, group: &Group) -> Result<()> {
        let text = "UPDATE vm_machine_groups SET name = ?, description = ?, schedule_id = ?, max_concurrent_vms = ?, priority = ?, \
             updated_at = ? WHERE id = ?";
        let statement = self.0.sql("change a group", text).bind(&group.name).bind(group.description.as_ref()).bind(group.schedule.as_ref());
        let statement = statement.bind(group.max_concurrent_vms).bind(group.priority).bind(group.updated_at).bind(&group.id);
        statement.run_found(NO_GROUP).await
    }

    /// Removes a group; its VMs stay under management.
    pub async fn remove(&self, id: &GroupId) -> Result<()> {
        self.0.sql("remove a group", "DELETE FROM vm_machine_groups WHERE id = ?").bind(id).run_found(NO_GROUP).await
    }

    /// Puts a VM into a group. [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when it is in it.
    pub async fn join(&self, member: &Membership) -> Result<()> {
        let text = format!("INSERT INTO vm_group_memberships ({MEMBER}) VALUES (?, ?, ?, ?, ?, ?, ?)");
        let statement = self.0.sql("put a VM into a group", text).bind(&member.id).bind(&member.group).bind(&member.context);
        let statement = statement.bind(member.enabled).bind(member.priority).bind(member.schedule_override.as_ref());
        statement.bind(member.added_at).run().await.map(|_| ())
    }

    /// Takes a VM out of a group.
    pub async fn leave(&self, group: &GroupId, context: &ContextId) -> Result<()> {
        let text = "DELETE FROM vm_group_memberships WHERE group_id = ? AND vm_context_id = ?";
        self.0.sql("take a VM out of a group", text).bind(group).bind(context).run_found("the VM is not in this group").await
    }

    /// Who is in a group, in their turn, at most 1000 behind `after`.
    pub async fn members(&self, group: &GroupId, after: Option<&Membership>) -> Result<Vec<Membership>> {
        let text = format!(
            "SELECT {MEMBER} FROM vm_group_memberships WHERE group_id = ? AND (priority > ? OR (priority = ? AND id > ?)) \
             ORDER BY priority, id LIMIT {MAX_PAGE}"
        );
        let (priority, id) = after.map_or((i64::MIN, ""), |last| (i64::from(last.priority), last.id.as_str()));
        self.0.sql("list a group", text).bind(group).bind(priority).bind(priority).bind(id).all(member).await
    }

    /// The groups a VM is in, at most 1000.
    pub async fn of(&self, context: &ContextId) -> Result<Vec<Membership>> {
        let text = format!("SELECT {MEMBER} FROM vm_group_memberships WHERE vm_context_id = ? ORDER BY id LIMIT {MAX_PAGE}");
        self.0.sql("list a VM's groups", text).bind(context).all(member).await
    }

    /// Counts the members of a group that take part.
    pub async fn size(&self, group: &GroupId) -> Result<u64> {
        let text = "SELECT COUNT(*) AS n FROM vm_group_memberships WHERE group_id = ? AND enabled = 1";
        self.0.sql("count a group", text).bind(group).one("nothing was counted", |row| row.number("n")).await
    }
}

const NO_GROUP: &str = "there is no such group";

fn group(row: &Row) -> Result<Group> {
    Ok(Group {
        id: row.parse("id")?,
        name: row.text("name")?,
        description: row.text_or_none("description")?,
        schedule: row.parse_or_none("schedule_id")?,
        max_concurrent_vms: row.number("max_concurrent_vms")?,
        priority: row.number("priority")?,
        created_by: row.text_or_none("created_by")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn member(row: &Row) -> Result<Membership> {
    let added_at: Timestamp = row.time("added_at")?;
    Ok(Membership {
        id: row.parse("id")?,
        group: row.parse("group_id")?,
        context: row.parse("vm_context_id")?,
        enabled: row.flag("enabled")?,
        priority: row.number("priority")?,
        schedule_override: row.parse_or_none("schedule_override_id")?,
        added_at,
    })
}
