//! The world outside: machines to be moved, and volumes to hold their replicas.
//!
//! A platform takes one or more small roles. [`Inventory`] tells which machines there are. [`Source`] describes one, freezes it in a
//! snapshot of ours, tells what changed since an earlier one, and lets its disks be read. [`Target`] makes, finds, grows and removes the
//! volumes that hold replicas. What a platform can do in a role is plain data ([`Capabilities`]): the command line prints it, and it
//! selects the tests of `testing::platform` that every adapter must pass.
//!
//! # What every adapter promises
//!
//! - **Nothing is remembered here.** A call names all it needs; what it made is found again by name or tag, after any crash.
//! - **Calls that make or remove may be repeated.** Removing what is not there succeeds; making what is there is
//!   [`AlreadyExists`](crate::ErrorKind::AlreadyExists), and the thing is found by its name.
//! - **A fault of the way is an error** with a [`Retry`](crate::Retry) hint; that a change id is not believed is an answer
//!   ([`Changes::Refused`]), for only that may lead to a comparison of the whole disk.
//! - **Names of ours begin with `migratekit-`.** Nothing else is ever removed.
//! - Dropping a future stops the waiting, not always the work; calls that take long watch the token they are given.
//!
//! What is moved when, and what is written down before, is decided by `replication`; adapters decide nothing.

mod capability;
pub mod local;
mod machine;
mod names;
mod source;
mod target;

pub use self::capability::{Capabilities, ChangeTracking, SourceCapabilities, TargetCapabilities};
pub use self::machine::{Firmware, Inventory, Listed, Machine, MachineNetwork};
pub use self::names::{ChangeId, InstanceId, MAX_NAME, MachineRef, SNAPSHOT_PREFIX, SnapshotName};
pub use self::source::{Changes, Consistency, Snapshot, SnapshotDisk, SnapshotListed, Source};
pub use self::target::{EDGE, Target, Volume, VolumeListed, VolumePlace, VolumeTag, check_blank, edges};
