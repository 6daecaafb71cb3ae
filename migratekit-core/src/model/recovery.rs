//! What a job's state means after a crash, a restart or a long silence: one pure function, for the start and for the health monitor alike.
//!
//! | the other side says | decision |
//! |---|---|
//! | (its owner lives) | leave it: somebody works on it |
//! | running | store its progress, follow it again |
//! | completed, with proof | finish |
//! | completed, without the final report or a change id | ask again, at most [`ASKS`] times; then fail: `no_proof` |
//! | failed | fail with its error |
//! | it knows no such job | fail: `job_lost`, whatever the percent; the ledger lets the next run go on |
//! | unreachable, for less than [`UNREACHABLE_LIMIT`] | leave it, marked with the time |
//! | unreachable, for that long or longer | needs attention |
//! | (no other side: the journal is everything) | take it over and let the journal decide |
//!
//! Taking over always means a new epoch: whoever owned the job before cannot write any more, even if it lives after all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{JobStatus, Percent};
use crate::id::DiskKey;

/// How long the other side may be unreachable before a person is asked: a restart of an appliance and of its network takes less.
pub const UNREACHABLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// How often a mover that says it completed is asked for what proves it: it writes its report within seconds of its last flush, and the
/// monitor asks every two minutes.
pub const ASKS: u32 = 3;

/// The job's owner, as far as it can be known: by its lease and its signs of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Nobody ever took the job.
    None,
    /// This process runs it.
    Us,
    /// Another process holds it, and its lease is valid or it gives signs of life.
    Alive,
    /// Its lease is over, and it is known dead.
    Dead,
}

/// What a mover says at the end: the mark of every disk that it flushed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FinalReport {
    /// For each disk that was flushed, its change id (none: the mover had none to give).
    pub disks: BTreeMap<DiskKey, Option<String>>,
}

/// What the other side (a VMA's mover) says of the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OtherSide {
    /// There is none: all work is done by the runner itself.
    None,
    /// It works.
    Running {
        /// How far it is.
        percent: Percent,
    },
    /// It says it is done; with its final report, if that has come.
    Completed(Option<FinalReport>),
    /// It says it failed.
    Failed {
        /// Its error, in technical words.
        message: String,
    },
    /// It answers, and knows no such job.
    NotFound,
    /// It does not answer.
    Unreachable {
        /// Since how long, by the monotonic clock or the catalog's record.
        since: Duration,
    },
}

/// All that the decision is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecoveryFacts {
    /// Where the job is.
    pub status: JobStatus,
    /// Who runs it.
    pub owner: Owner,
    /// Whether its pivot is committed.
    pub crossed: bool,
    /// What the other side says.
    pub other: OtherSide,
    /// The disks that the pass is for.
    pub disks: Vec<DiskKey>,
    /// How often a mover that says it completed was asked for its proof already.
    pub asked: u32,
}

/// That every disk of a pass is flushed and has a change id. It can only be had from a report that says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proof(BTreeMap<DiskKey, String>);

impl Proof {
    /// The proof that `report` holds for exactly these disks; none when one is missing, has no change id, or is foreign.
    #[must_use]
    pub fn of(report: &FinalReport, disks: &[DiskKey]) -> Option<Proof> {
        let marks: Option<BTreeMap<DiskKey, String>> = disks
            .iter()
            .map(|disk| report.disks.get(disk).cloned().flatten().filter(|mark| !mark.is_empty()).map(|mark| (*disk, mark)))
            .collect();
        marks.filter(|marks| !marks.is_empty() && marks.len() == report.disks.len()).map(Proof)
    }

    /// The change id of each disk.
    #[must_use]
    pub fn change_ids(&self) -> &BTreeMap<DiskKey, String> {
        &self.0
    }
}

/// Why a job is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leave {
    /// It is at rest.
    AtRest,
    /// It waits for a runner, and any may take it.
    Waiting,
    /// Somebody paused it.
    Paused,
    /// Its owner works on it.
    Owned,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The other side says it completed, and cannot prove it.
    NoProof,
    /// The other side knows no such job.
    JobLost,
    /// The other side says it failed.
    Reported(String),
}

impl Lost {
    /// The stable text code, as `error_classification` has it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Lost::NoProof => "no_proof",
            Lost::JobLost => "job_lost",
            Lost::Reported(_) => "vma_reported_failure",
        }
    }
}

/// What is done with the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Nothing.
    Leave(Leave),
    /// Take it by a new epoch; its journal says how it goes on.
    TakeOver,
    /// Take it by a new epoch, store the progress, and follow the other side again.
    Follow(Percent),
    /// Take it by a new epoch and finish it with this proof.
    Finish(Proof),
    /// Ask the other side for its proof again, at the next look.
    AskAgain,
    /// Take it by a new epoch and turn it back; it fails with this.
    Fail(Lost),
    /// Leave it, and write down since when the other side is unreachable.
    MarkUnreachable,
    /// A person is needed: the other side may still write until a new epoch fences it.
    NeedsAttention,
}

/// The decision.
#[must_use]
pub fn decide(facts: &RecoveryFacts) -> Decision {
    match (facts.status, facts.owner) {
        (status, _) if !status.is_busy() => return Decision::Leave(Leave::AtRest),
        (_, Owner::Us | Owner::Alive) => return Decision::Leave(Leave::Owned),
        (JobStatus::Paused, _) => return Decision::Leave(Leave::Paused),
        (JobStatus::Pending, Owner::None) => return Decision::Leave(Leave::Waiting),
        // Undo does not depend on what the other side thinks: it ends it.
        (JobStatus::Pending | JobStatus::Cancelling | JobStatus::RollingBack, _) => return Decision::TakeOver,
        _ => {}
    }
    // Behind the pivot the other side is not needed any more.
    if facts.crossed {
        return Decision::TakeOver;
    }
    match &facts.other {
        OtherSide::None => Decision::TakeOver,
        OtherSide::Running { percent } => Decision::Follow(*percent),
        OtherSide::Completed(report) => match report.as_ref().and_then(|report| Proof::of(report, &facts.disks)) {
            Some(proof) => Decision::Finish(proof),
            None if facts.asked < ASKS => Decision::AskAgain,
            None => Decision::Fail(Lost::NoProof),
        },
        OtherSide::Failed { message } => Decision::Fail(Lost::Reported(message.clone())),
        OtherSide::NotFound => Decision::Fail(Lost::JobLost),
        OtherSide::Unreachable { since } if *since < UNREACHABLE_LIMIT => Decision::MarkUnreachable,
        OtherSide::Unreachable { .. } => Decision::NeedsAttention,
    }
}

#[cfg(test)]
mod tests;
