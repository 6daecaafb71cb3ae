//! The catalog: everything that is known of VMs, disks, volumes, points and jobs, in SQLite (embedded, the default) or MariaDB 10.6+.
//!
//! ```text
//!  store.write("add a VM", |tx| async move { tx.contexts().add(vm).await })     one transaction, repeated as a whole
//!  store.read("list VMs",  |tx| async move { tx.feed().contexts(..).await })     one snapshot
//! ```
//!
//! - [`Store::write`] runs its closure in one transaction. On a deadlock, a lost connection or a failed certification (Galera) the whole
//!   transaction is run again, so the closure must change nothing but the catalog. On MariaDB each transaction leaves a mark, by which a
//!   commit whose answer was lost is found again: nothing is ever done twice.
//! - [`Store::read`] gives one snapshot; the database itself refuses to write in it.
//! - The repositories (`tx.contexts()`, `tx.disks()`, ..) hang off the transaction, one file each. There is one SQL text for both
//!   databases; what differs are the few functions of `dialect.rs`. Nobody outside this module writes SQL.
//! - Times are microseconds UTC in integer columns, sizes are bytes, ids are text that the [`id`](crate::id) types check.
//! - A change of state is an UPDATE that names the state it comes from, with the affected rows checked.
//!
//! Migrations are in the binary, one folder for each database, with one set of tables (`migrations/`); [`Store::open`] applies them.
//!
//! What this does not do: it decides nothing. Which state follows which is the model's to say, who may run a job is that of `jobs`.

mod connect;
mod dialect;
mod failure;
mod home;
mod migrate;
mod open;
mod pool;
mod replicas;
mod replications;
mod row;
mod session;
mod statement;
mod transaction;
mod url;
mod value;

mod access;
mod contexts;
mod devices;
mod dump;
mod enrollments;
mod events;
mod exports;
mod facts;
mod failovers;
mod feed;
mod groups;
mod intents;
mod job_lists;
mod jobs;
mod logs;
mod networks;
mod operations;
mod retention;
mod runners;
mod saved;
mod schedules;
mod sealed;
mod steps;
mod vma_connections;
mod volumes;

pub use access::{Audit, NewAuditEntry, Users};
pub use contexts::{Contexts, VmLook, Ways};
pub use devices::{Devices, Mounts, NewDevice};
pub use dump::{Content, DumpReport};
pub use enrollments::{Enrollments, NewConnectionAudit};
pub use events::{Events, NewEvent};
pub use exports::{ExportNames, Exports, NewExport};
pub use facts::Facts;
pub use failovers::{FailoverSearch, Failovers, NewFailover};
pub use feed::{Feed, FeedSearch};
pub use groups::Groups;
pub use intents::{Intents, NewIntent};
pub use job_lists::{JobLists, ReplicationRow};
pub use jobs::{JobFailure, JobNote, Jobs, NewJob};
pub use logs::{Logs, NewLogLine};
pub use migrate::{Migration, SchemaStatus};
pub use networks::{Networks, NewMapping};
pub use open::{Store, StoreOptions};
pub use operations::{Metrics, NewOperation, OperationEnd, OperationSearch, VolumeOperations};
pub use replicas::{NewVolume, Replicas};
pub use replications::{ReplicationEnd, Replications};
pub use retention::{BATCH, Retention, Swept};
pub use runners::{NewRunner, Runners};
pub use saved::{CloudConfigs, Credentials, NewCloudConfig, NewVmwareCredential, Sites};
pub use schedules::Schedules;
pub use sealed::{SealedColumn, SealedSecrets};
pub use session::Tx;
pub(crate) use statement::Statement;
pub use steps::{StepNote, Steps};
pub use url::{Backend, StoreUrl};
pub use vma_connections::VmaConnections;
pub use volumes::Volumes;
