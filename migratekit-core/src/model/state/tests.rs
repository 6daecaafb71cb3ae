//! All machines alike: what is true of every one, over every state and every trigger.

use std::collections::BTreeSet;

use super::*;
use crate::model::FailoverKind;

/// Walks a machine from its first state: reachable states, dead ends, codes that read back.
macro_rules! machine {
    ($test:ident, $state:ty, $trigger:ty, from $start:expr, resting $($rest:pat_param)|*) => {
        #[test]
        fn $test() {
            let mut reached = BTreeSet::from([$start]);
            loop {
                let more: BTreeSet<$state> =
                    reached.iter().flat_map(|state| <$trigger>::ALL.iter().filter_map(|on| state.next(*on).ok())).collect();
                if more.is_subset(&reached) {
                    break;
                }
                reached.extend(more);
            }
            assert_eq!(reached.len(), <$state>::ALL.len(), "not reachable: {:?}", <$state>::ALL.iter().filter(|s| !reached.contains(s)).collect::<Vec<_>>());
            for state in <$state>::ALL {
                let ways: Vec<_> = <$trigger>::ALL.iter().filter_map(|on| state.next(*on).ok()).filter(|next| next != state).collect();
                assert_eq!(state.is_final(), ways.is_empty() || matches!(state, $($rest)|*) && state.is_final(), "{state}: {ways:?}");
                assert!(!(state.is_busy() && state.is_final()), "{state}");
                assert!(!state.is_busy() || !ways.is_empty(), "{state} is busy for ever");
                assert_eq!(state.code().parse::<$state>().unwrap(), *state);
                assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{}\"", state.code()));
            }
            for on in <$trigger>::ALL {
                assert!(<$state>::ALL.iter().any(|state| state.next(*on).is_ok()), "{on} is never taken");
                for state in <$state>::ALL {
                    if let Err(refused) = state.next(*on) {
                        assert_eq!((refused.from, refused.on), (state.code(), on.code()));
                    }
                }
            }
            assert!("".parse::<$state>().is_err() && "nonsense\n".parse::<$state>().is_err());
        }
    };
}

machine!(contexts, ContextStatus, ContextTrigger, from ContextStatus::Discovered, resting ContextStatus::Completed);
machine!(replications, ReplicationStatus, ReplicationTrigger, from ReplicationStatus::Pending, resting ReplicationStatus::Completed);
machine!(failovers, FailoverStatus, FailoverTrigger, from FailoverStatus::Pending, resting FailoverStatus::RolledBack);
machine!(jobs, JobStatus, JobTrigger, from JobStatus::Pending, resting JobStatus::Completed);
// A step that is done can still be undone: final only as long as its job goes forward.
machine!(steps, StepStatus, StepTrigger, from StepStatus::Pending, resting StepStatus::Completed | StepStatus::Skipped);
machine!(intents, IntentStatus, IntentTrigger, from IntentStatus::Intended, resting IntentStatus::Undone);
machine!(points, PointStatus, PointTrigger, from PointStatus::Committed, resting PointStatus::Superseded);
machine!(volumes, VolumeStatus, VolumeTrigger, from VolumeStatus::Creating, resting VolumeStatus::Destroy);
machine!(snapshots, SnapshotStatus, SnapshotTrigger, from SnapshotStatus::None, resting SnapshotStatus::None);
machine!(operations, OperationStatus, OperationTrigger, from OperationStatus::Pending, resting OperationStatus::Completed);
machine!(exports, ExportStatus, ExportTrigger, from ExportStatus::Pending, resting ExportStatus::Failed);
machine!(enrollments, EnrollmentStatus, EnrollmentTrigger, from EnrollmentStatus::PendingVerification, resting EnrollmentStatus::Revoked);
machine!(connections, ConnectionStatus, ConnectionTrigger, from ConnectionStatus::Disconnected, resting ConnectionStatus::Revoked);
machine!(executions, ExecutionStatus, ExecutionTrigger, from ExecutionStatus::Scheduled, resting ExecutionStatus::Completed);
machine!(transfers, TransferStatus, TransferTrigger, from TransferStatus::Queued, resting TransferStatus::Failed);

#[test]
fn disks_of_a_transfer_end() {
    use {DiskProgress as S, TransferTrigger as T};
    let way = [T::Snapshot, T::Stream, T::Succeed].iter().try_fold(S::Queued, |state, on| state.next(*on));
    assert_eq!(way.unwrap(), S::Completed);
    for state in S::ALL {
        assert_eq!(state.is_busy(), state.next(T::Fail).is_ok(), "{state}");
    }
}

#[test]
fn every_stage_of_a_mover_has_a_state_of_the_replication() {
    let order: Vec<_> = [TransferStage::Discover, TransferStage::QueryCbt, TransferStage::PrepareVolumes, TransferStage::StartExports]
        .iter()
        .map(|stage| stage.status().setup_percent())
        .collect();
    assert!(order.is_sorted());
    assert!(TransferStage::ALL.iter().all(|stage| stage.status().is_busy()));
}

#[test]
fn percents_of_failovers_rise_with_their_states() {
    use FailoverStatus as S;
    for kind in [FailoverKind::Live, FailoverKind::Test] {
        let way = [S::Pending, S::Validating, S::Snapshotting, S::CreatingVm, S::SwitchingVolume, S::PoweringOn, S::Completed];
        let percents: Vec<u8> = way.iter().map(|state| state.percent(kind).get()).collect();
        assert!(percents.is_sorted() && percents[6] == 100, "{percents:?}");
    }
}

#[test]
fn a_refusal_says_what_was_refused() {
    let refused = JobStatus::Completed.next(JobTrigger::Pause).unwrap_err();
    assert_eq!(refused.to_string(), "a job that is completed does not take pause");
    assert_eq!(crate::Error::from(refused).kind(), crate::ErrorKind::InvalidInput);
}

#[test]
fn modes_change_places() {
    for mode in OperationMode::ALL {
        assert_eq!(mode.other().other(), *mode);
        assert_ne!(mode.other(), *mode);
    }
}
