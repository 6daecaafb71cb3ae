//! What is done to volumes: operations (`volume_operations`), each change of their status (`volume_operation_history`), and figures of
//! them over time (`volume_daemon_metrics`). An operation outlives the volume that it removes.

use std::collections::BTreeMap;

use super::contexts::MAX_PAGE;
use super::row::Row;
use super::{Tx, dialect};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{OperationId, VolumeId};
use crate::model::{OperationChange, OperationKind, OperationStatus, OperationTrigger, VolumeMetrics, VolumeOperation};

/// Operations on volumes, in one transaction.
#[derive(Debug)]
pub struct VolumeOperations<'t>(&'t Tx);

/// Figures over time, in one transaction.
#[derive(Debug)]
pub struct Metrics<'t>(&'t Tx);

/// An operation that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct NewOperation<'a> {
    /// Its id.
    pub id: &'a OperationId,
    /// What is to be done.
    pub kind: OperationKind,
    /// To which volume; none before one is made.
    pub volume: Option<&'a VolumeId>,
    /// The machine it is attached to or detached from.
    pub vm_id: Option<&'a str>,
    /// What was asked for.
    pub request: &'a serde_json::Value,
}

/// What came of an operation, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct OperationEnd<'a> {
    /// The volume, where it was made by this.
    pub volume: Option<&'a VolumeId>,
    /// What came back.
    pub response: Option<&'a serde_json::Value>,
    /// Why it failed, in technical words.
    pub error: Option<&'a str>,
}

/// Which operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct OperationSearch<'a> {
    /// Those of this kind.
    pub kind: Option<OperationKind>,
    /// Those with this status.
    pub status: Option<OperationStatus>,
    /// Those on this volume.
    pub volume: Option<&'a VolumeId>,
    /// Those with this machine.
    pub vm_id: Option<&'a str>,
    /// Those asked for before this one.
    pub before: Option<&'a OperationId>,
}

impl Tx {
    /// Operations on volumes.
    #[must_use]
    pub fn volume_operations(&self) -> VolumeOperations<'_> {
        VolumeOperations(self)
    }

    /// Figures of what is done to volumes.
    #[must_use]
    pub fn metrics(&self) -> Metrics<'_> {
        Metrics(self)
    }
}

const CHANGE: &str = "change a volume operation";

impl VolumeOperations<'_> {
    fn now(&self) -> &'static str {
        dialect::now(self.0.backend())
    }

    fn kind_column(&self) -> String {
        dialect::quoted(self.0.backend(), "type")
    }

    fn columns(&self) -> String {
        format!(
            "id, {} AS kind, status, volume_id, vm_id, request, response, error, created_at, updated_at, completed_at",
            self.kind_column()
        )
    }

    /// Writes down that an operation is asked for.
    pub async fn begin(&self, new: &NewOperation<'_>) -> Result<()> {
        let text = format!(
            "INSERT INTO volume_operations (id, {}, status, volume_id, vm_id, request, created_at, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?, {now}, {now})",
            self.kind_column(),
            now = self.now()
        );
        let statement = self.0.sql("ask for a volume operation", text).bind(new.id).bind(new.kind.code());
        let statement = statement.bind(OperationStatus::Pending.code()).bind(new.volume).bind(new.vm_id).bind(new.request);
        statement.run().await?;
        self.record(new.id, None, OperationStatus::Pending, None).await
    }

    /// Changes the status of an operation, provided it is as it was read ([`ErrorKind::Changed`] otherwise), and keeps the change.
    pub async fn change(&self, seen: &VolumeOperation, on: OperationTrigger, end: &OperationEnd<'_>) -> Result<OperationStatus> {
        let to = seen.status.next(on)?;
        let completed = if to.is_final() { self.now() } else { "NULL" };
        let text = format!(
            "UPDATE volume_operations SET status = ?, volume_id = COALESCE(?, volume_id), response = COALESCE(?, response), \
             error = COALESCE(?, error), completed_at = {completed}, updated_at = {} WHERE id = ? AND status = ?",
            self.now()
        );
        let statement = self.0.sql(CHANGE, text).bind(to.code()).bind(end.volume).bind(end.response).bind(end.error);
        if statement.bind(&seen.id).bind(seen.status.code()).run().await? == 0 {
            return Err(Error::new(ErrorKind::Changed, CHANGE, "it is not what it was").with("operation", &seen.id));
        }
        let details = end.error.map(|error| serde_json::json!({ "error": error }));
        self.record(&seen.id, Some(seen.status), to, details.as_ref()).await?;
        Ok(to)
    }

    async fn record(
        &self,
        id: &OperationId,
        from: Option<OperationStatus>,
        to: OperationStatus,
        details: Option<&serde_json::Value>,
    ) -> Result<()> {
        let text = format!(
            "INSERT INTO volume_operation_history (operation_id, previous_status, new_status, changed_at, details) VALUES (?, ?, ?, {}, ?)",
            self.now()
        );
        let statement = self.0.sql(CHANGE, text).bind(id).bind(from.map(OperationStatus::code)).bind(to.code());
        statement.bind(details).run().await.map(|_| ())
    }

    /// The operation. [`ErrorKind::NotFound`] when there is none of this id.
    pub async fn get(&self, id: &OperationId) -> Result<VolumeOperation> {
        let text = format!("SELECT {} FROM volume_operations WHERE id = ?", self.columns());
        let read = self.0.sql("read a volume operation", text).bind(id).one("there is no such volume operation", operation);
        read.await.map_err(|e| e.with("operation", id))
    }

    /// Operations, the newest first; at most `limit` (up to 1000).
    pub async fn page(&self, search: &OperationSearch<'_>, limit: u32) -> Result<Vec<VolumeOperation>> {
        let kind = self.kind_column();
        let conditions = [
            (search.kind.is_some(), format!("{kind} = ?")),
            (search.status.is_some(), "status = ?".to_owned()),
            (search.volume.is_some(), "volume_id = ?".to_owned()),
            (search.vm_id.is_some(), "vm_id = ?".to_owned()),
        ];
        let conditions: String = conditions.iter().filter(|(asked, _)| *asked).map(|(_, condition)| format!("{condition} AND ")).collect();
        // Ids rise with the time they were made at.
        let text = format!(
            "SELECT {} FROM volume_operations WHERE {conditions}id < ? ORDER BY id DESC LIMIT {}",
            self.columns(),
            limit.clamp(1, MAX_PAGE)
        );
        let mut statement = self.0.sql("list volume operations", text);
        for code in [search.kind.map(OperationKind::code), search.status.map(OperationStatus::code)].into_iter().flatten() {
            statement = statement.bind(code);
        }
        for text in [search.volume.map(VolumeId::as_str), search.vm_id].into_iter().flatten() {
            statement = statement.bind(text);
        }
        statement.bind(search.before.map_or("~", OperationId::as_str)).all(operation).await
    }

    /// Every change of an operation's status, the first one first.
    pub async fn history(&self, id: &OperationId) -> Result<Vec<OperationChange>> {
        let text = format!(
            "SELECT previous_status, new_status, changed_at, details FROM volume_operation_history WHERE operation_id = ? ORDER BY id LIMIT {MAX_PAGE}"
        );
        self.0.sql("read the history of a volume operation", text).bind(id).all(change).await
    }
}

impl Metrics<'_> {
    /// Counts what is known now, and keeps the figures.
    pub async fn take(&self) -> Result<VolumeMetrics> {
        const TAKE: &str = "take the figures of volume operations";
        let kind = dialect::quoted(self.0.backend(), "type");
        let text = format!(
            "SELECT {kind} AS kind, status, COUNT(*) AS n, CAST(COALESCE(SUM(completed_at - created_at), 0) AS SIGNED) AS micros \
             FROM volume_operations GROUP BY {kind}, status"
        );
        let read = |row: &Row| {
            let key: (OperationKind, OperationStatus) = (row.parse("kind")?, row.parse("status")?);
            Ok((key, row.number::<u64>("n")?, row.number::<u64>("micros")?))
        };
        let counted = self.0.sql(TAKE, text).all(read).await?;
        let devices =
            self.0.sql(TAKE, "SELECT COUNT(*) AS n FROM device_mappings").one("nothing was counted", |row| row.number("n")).await?;
        let metrics = figures(&counted, devices, self.0.now().await?);
        let stamp = dialect::quoted(self.0.backend(), "timestamp");
        let text = format!(
            "INSERT INTO volume_daemon_metrics ({stamp}, total_operations, pending_operations, active_mappings, operations_by_type, \
             operations_by_status, average_response_time_ms, error_rate_percent) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        );
        let statement = self.0.sql(TAKE, text).bind(metrics.at).bind(metrics.operations).bind(metrics.pending).bind(metrics.devices);
        let statement = statement.bind(&serde_json::json!(metrics.by_kind)).bind(&serde_json::json!(metrics.by_status));
        statement.bind(metrics.mean_ms).bind(metrics.failed_percent).run().await?;
        Ok(metrics)
    }

    /// The figures that were kept, the latest first: at most `limit` (up to 1000), from before `before`.
    pub async fn page(&self, before: Option<Timestamp>, limit: u32) -> Result<Vec<VolumeMetrics>> {
        let stamp = dialect::quoted(self.0.backend(), "timestamp");
        let text = format!(
            "SELECT {stamp} AS taken_at, total_operations, pending_operations, active_mappings, operations_by_type, operations_by_status, \
             average_response_time_ms, error_rate_percent FROM volume_daemon_metrics WHERE {stamp} < ? ORDER BY {stamp} DESC, id DESC LIMIT {}",
            limit.clamp(1, MAX_PAGE)
        );
        self.0.sql("read the figures of volume operations", text).bind(before.unwrap_or(Timestamp::MAX)).all(kept).await
    }
}

/// The figures, from counts by kind and status with the microseconds that those which ended took.
fn figures(counted: &[((OperationKind, OperationStatus), u64, u64)], devices: u64, at: Timestamp) -> VolumeMetrics {
    let sum = |fits: &dyn Fn(OperationStatus) -> bool| counted.iter().filter(|((_, s), ..)| fits(*s)).map(|(_, n, _)| n).sum::<u64>();
    let (mut by_kind, mut by_status) = (BTreeMap::new(), BTreeMap::new());
    for ((kind, status), n, _) in counted {
        *by_kind.entry(*kind).or_default() += n;
        *by_status.entry(*status).or_default() += n;
    }
    let (done, failed) = (sum(&|s| s == OperationStatus::Completed), sum(&|s| s == OperationStatus::Failed));
    let micros: u64 = counted.iter().filter(|((_, s), ..)| *s == OperationStatus::Completed).map(|(.., micros)| micros).sum();
    VolumeMetrics {
        at,
        operations: sum(&|_| true),
        pending: sum(&|s| s.is_busy()),
        devices,
        by_kind,
        by_status,
        mean_ms: share(micros, done) / 1000.0,
        failed_percent: share(failed, done + failed) * 100.0,
    }
}

/// A part of a whole; nothing of nothing is nothing.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn operation(row: &Row) -> Result<VolumeOperation> {
    Ok(VolumeOperation {
        id: row.parse("id")?,
        kind: row.parse("kind")?,
        status: row.parse("status")?,
        volume: row.parse_or_none("volume_id")?,
        vm_id: row.text_or_none("vm_id")?,
        request: row.json("request")?,
        response: row.json_or_none("response")?,
        error: row.text_or_none("error")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        completed_at: row.time_or_none("completed_at")?,
    })
}

fn change(row: &Row) -> Result<OperationChange> {
    Ok(OperationChange {
        from: row.parse_or_none("previous_status")?,
        to: row.parse("new_status")?,
        at: row.time("changed_at")?,
        details: row.json_or_none("details")?,
    })
}

fn kept(row: &Row) -> Result<VolumeMetrics> {
    Ok(VolumeMetrics {
        at: row.time("taken_at")?,
        operations: row.number("total_operations")?,
        pending: row.number("pending_operations")?,
        devices: row.number("active_mappings")?,
        by_kind: row.record("operations_by_type")?,
        by_status: row.record("operations_by_status")?,
        mean_ms: row.real_or_none("average_response_time_ms")?.unwrap_or_default(),
        failed_percent: row.real_or_none("error_rate_percent")?.unwrap_or_default(),
    })
}
