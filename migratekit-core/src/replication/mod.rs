//! Replication: one run that brings the replica of a VM to a new point, on whatever platforms it lives.
//!
//! ```text
//!  initializing  fresh look at the source; disk set compared; foreign snapshot: refused
//!  analyzing     what an earlier run left is settled; room for the spools
//!  provisioning  volumes by context id + disk key; grown disks: volumes grow
//!  configuring   volumes locked, known again by their ends, older epochs shut out
//!  snapshotting  our left-over removed first; then one snapshot of ours
//!  replicating   all disks in parallel: changes ─▶ copy ─▶ spool complete
//!  committing    PIVOT: point, change ids and ends of all disks, in one transaction
//!  applying      spools into volumes, forward only, without the source
//!  releasing     snapshot removed, volumes let go
//! ```
//!
//! # What it promises
//!
//! - The last complete point stays readable until the next one is. A reader finds the one or the other, on all disks.
//! - The change ids of a pass are stored with its point, never before; so the next pass asks from what the replica really holds.
//! - Before the pivot failure and cancellation leave nothing: no snapshot, no spool, no volume that this job made. Behind it everything is
//!   finished without the source, however often it is interrupted.
//! - Only a change id that is not *believed* leads to a comparison of that disk; faults of the way are retried and then fail the job.
//! - Our snapshot never stands beside another one.
//!
//! # What it does not
//!
//! It knows no platform by name ([`Reach`]), opens no connection, and does not decide when it runs.

mod again;
mod differing;
mod disks;
mod finish;
mod moving;
mod open;
mod pass;
mod reader;
mod records;
mod saga;
mod setup;
mod start;
mod world;

pub use self::differing::COMPARE_BLOCK;
pub use self::disks::{DiskFate, Plan, PlannedDisk};
pub use self::moving::DISKS_AT_ONCE;
pub use self::pass::DiskDone;
pub use self::reader::{OpenPoint, open_point};
pub use self::saga::{DEFINITION, ReplicationInput, Replications, STEPS};
pub use self::start::start;
pub use self::world::{Reach, SourceMachine};
