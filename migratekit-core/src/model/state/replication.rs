//! The state of a replication. While its job is undone or cancelled it stays where it was; it ends with the job, in one transaction.

use super::{JobStatus, Refused};
use crate::model::Percent;

codes! {
    /// Where a replication is.
    ReplicationStatus ("status of a replication") {
        /// Asked for; no runner has it.
        Pending => "pending",
        /// The source is looked at afresh.
        Initializing => "initializing",
        /// The mode of each disk is decided.
        Analyzing => "analyzing",
        /// Volumes are found or made.
        Provisioning => "provisioning",
        /// Volumes are attached here.
        Attaching => "attaching",
        /// Exports or locks are made at this epoch.
        Configuring => "configuring",
        /// All is set up.
        ReadyForSync => "ready_for_sync",
        /// The source's snapshot is made.
        Snapshotting => "snapshotting",
        /// Bytes move.
        Replicating => "replicating",
        /// The point is committed, and put into the volumes.
        Finalizing => "finalizing",
        /// The point is in the volumes, with proof.
        Completed => "completed",
        /// It failed; the last point is as it was.
        Failed => "failed",
        /// It was cancelled; the last point is as it was.
        Cancelled => "cancelled",
        /// Neither goes on nor back without a person.
        NeedsAttention => "needs_attention",
    }

    /// What happened to a replication. A step that is begun again gives the trigger of its state again, and the state stays; a
    /// person may send one that needs attention forward, into the step where it stood.
    ReplicationTrigger ("change of a replication") {
        /// A runner took it.
        Initialize => "initialize",
        /// The source was looked at.
        Analyze => "analyze",
        /// The modes are decided.
        Provision => "provision",
        /// The volumes are there, and are attached here.
        Attach => "attach",
        /// The volumes can be written.
        Configure => "configure",
        /// All is set up.
        SetUp => "set_up",
        /// The source's snapshot is made.
        Snapshot => "snapshot",
        /// Bytes move.
        Copy => "copy",
        /// All bytes are there, and flushed.
        Finalize => "finalize",
        /// The point of all disks is in the volumes, with their change ids: the proof.
        Prove => "prove",
        /// Its job failed, and is undone.
        Fail => "fail",
        /// Its job was cancelled, and is undone.
        Cancel => "cancel",
        /// Its job needs a person.
        GiveUp => "give_up",
    }
}

impl ReplicationTrigger {
    /// What the begin of this step of the saga is to the replication; none for a step that is not known.
    #[must_use]
    pub fn of_step(name: &str) -> Option<Self> {
        use ReplicationTrigger as T;
        Some(match name {
            "initializing" => T::Initialize,
            "analyzing" => T::Analyze,
            "provisioning" => T::Provision,
            "attaching" => T::Attach,
            "configuring" => T::Configure,
            "snapshotting" => T::Snapshot,
            "replicating" => T::Copy,
            "committing" | "applying" | "releasing" => T::Finalize,
            _ => return None,
        })
    }

    /// What the end of its job in this status is to the replication; none while the job is busy.
    #[must_use]
    pub fn of_end(job: JobStatus) -> Option<Self> {
        use ReplicationTrigger as T;
        match job {
            JobStatus::Completed => Some(T::Prove),
            JobStatus::Failed => Some(T::Fail),
            JobStatus::Cancelled | JobStatus::RolledBack => Some(T::Cancel),
            JobStatus::NeedsAttention => Some(T::GiveUp),
            _ => None,
        }
    }
}

impl ReplicationStatus {
    /// What becomes of the state.
    pub fn next(self, on: ReplicationTrigger) -> Result<Self, Refused> {
        use {ReplicationStatus as S, ReplicationTrigger as T};
        Ok(match (on, self) {
            (T::Initialize, S::Pending | S::Initializing | S::NeedsAttention) => S::Initializing,
            (T::Analyze, S::Initializing | S::Analyzing | S::NeedsAttention) => S::Analyzing,
            (T::Provision, S::Analyzing | S::Provisioning | S::NeedsAttention) => S::Provisioning,
            (T::Attach, S::Provisioning | S::Attaching | S::NeedsAttention) => S::Attaching,
            (T::Configure, S::Provisioning | S::Attaching | S::Configuring | S::NeedsAttention) => S::Configuring,
            (T::SetUp, S::Configuring | S::ReadyForSync | S::NeedsAttention) => S::ReadyForSync,
            (T::Snapshot, S::Configuring | S::ReadyForSync | S::Snapshotting | S::NeedsAttention) => S::Snapshotting,
            // A VMA makes the snapshot itself, so the catalog may go on without having seen it.
            (T::Copy, S::ReadyForSync | S::Snapshotting | S::Replicating | S::NeedsAttention) => S::Replicating,
            (T::Finalize, S::Replicating | S::Finalizing | S::NeedsAttention) => S::Finalizing,
            (T::Prove, S::Finalizing) => S::Completed,
            (T::Fail, from) if !from.is_final() => S::Failed,
            (T::Cancel, from) if !from.is_final() => S::Cancelled,
            (T::GiveUp, from) if !from.is_final() => S::NeedsAttention,
            _ => return Err(Refused { machine: "replication", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        use ReplicationStatus as S;
        matches!(self, S::Completed | S::Failed | S::Cancelled)
    }

    /// Whether something is under way: every state that is neither final nor waits for a person. The one list of "active" states.
    #[must_use]
    pub fn is_busy(self) -> bool {
        !self.is_final() && self != ReplicationStatus::NeedsAttention
    }

    /// How far the setup is when this state begins, 0 to 85.
    #[must_use]
    pub fn setup_percent(self) -> Percent {
        use ReplicationStatus as S;
        Percent::capped(match self {
            S::Pending => 0,
            S::Initializing => 10,
            S::Analyzing => 20,
            S::Provisioning => 60,
            S::Attaching => 70,
            S::Configuring => 80,
            S::ReadyForSync | S::Snapshotting | S::Replicating | S::Finalizing | S::Completed => 85,
            // What these keep is what was shown before.
            S::Failed | S::Cancelled | S::NeedsAttention => 0,
        })
    }
}
