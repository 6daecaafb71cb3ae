//! The search: every state that can be reached, and recovery from each in every weather.

use std::collections::HashSet;

use super::*;

const WEATHERS: [Weather; 4] = [
    Weather { steps_succeed: true, undos_succeed: true },
    Weather { steps_succeed: true, undos_succeed: false },
    Weather { steps_succeed: false, undos_succeed: true },
    Weather { steps_succeed: false, undos_succeed: false },
];

/// The most states with the hand that a search may meet: about 300 bytes each.
const MOST: usize = 1_000_000;

/// What the search found, so that a search that found nothing cannot pass.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    recoveries: usize,
    ends: HashSet<(JobStatus, Domain)>,
}

fn search(saga: Saga) -> Found {
    let mut found = Found::default();
    let (mut met, mut survived) = (HashSet::new(), HashSet::new());
    let mut open = vec![(Node::new(saga), Hand::Idle)];
    while let Some((node, hand)) = open.pop() {
        if !met.insert((node.clone(), hand)) {
            continue;
        }
        assert!(met.len() < MOST, "the model has more than {MOST} states; it is too fine to be walked whole");
        if survived.insert(node.clone()) {
            for weather in WEATHERS {
                let rest = recover(saga, node.clone(), weather, &mut |_, _| {});
                judge(saga, &node, &rest, weather);
                found.ends.insert((rest.journal.status, rest.domain));
                found.recoveries += 1;
            }
        }
        for (next, hand) in ways_on(saga, &node, hand) {
            assert!(next.shown >= node.shown, "percent went back: {node:?} to {next:?}");
            truthful(&next);
            open.push((next, hand));
        }
    }
    found.states = survived.len();
    found
}

/// What every committed state must be, whatever happened before it.
fn truthful(node: &Node) {
    let job = &node.journal;
    let done = |step: &JournalStep| matches!(step.status, StepStatus::Completed | StepStatus::Skipped);
    if job.status == JobStatus::Completed {
        assert!(job.steps.iter().all(done), "completed without every step: {node:?}");
        for (at, step) in job.steps.iter().enumerate() {
            assert_eq!(node.world[at], step.status == StepStatus::Completed, "completed, and the world says otherwise: {node:?}");
        }
        assert_eq!(node.shown, Percent::FULL);
    } else {
        assert!(node.shown < Percent::FULL, "all of it before it is complete: {node:?}");
    }
    if matches!(job.status, JobStatus::Failed | JobStatus::Cancelled | JobStatus::RolledBack) && !node.dismissed {
        assert!(node.world.iter().all(|thing| !thing), "it ended, and something is left: {node:?}");
        assert!(!job.crossed, "it went back from behind its pivot: {node:?}");
    }
    let (domain_final, domain_waits, domain_busy, done) = match node.domain {
        Domain::Replication(s) => (s.is_final(), s == ReplicationStatus::NeedsAttention, s.is_busy(), s == ReplicationStatus::Completed),
        Domain::Failover(_, s) => (
            s.is_final() || s == FailoverStatus::Completed,
            s == FailoverStatus::CleanupRequired,
            s.is_busy(),
            s == FailoverStatus::Completed,
        ),
    };
    assert_eq!(done, job.status == JobStatus::Completed, "job and domain tell two stories: {node:?}");
    assert_eq!(domain_final, job.status.is_final(), "job and domain tell two stories: {node:?}");
    if job.status == JobStatus::NeedsAttention {
        assert!(domain_waits && !job.retries().is_empty(), "it waits for a person, and nobody is told: {node:?}");
    }
    assert!(!domain_busy || job.status.is_busy(), "the domain is busy and the job is not: {node:?}");
}

/// What a recovery must come to.
fn judge(saga: Saga, from: &Node, rest: &Node, weather: Weather) {
    truthful(rest);
    let status = rest.journal.status;
    assert!(rest.shown >= from.shown, "percent went back: {from:?} to {rest:?}");
    if status == JobStatus::Paused {
        assert!(rest.journal.pause_requested && !rest.journal.cancel_requested, "paused, and nobody asked: {rest:?}");
        return;
    }
    assert!(status.is_final() || status == JobStatus::NeedsAttention, "not at rest in {weather:?}: {from:?} to {rest:?}");
    if from.journal.status.is_busy() && weather.steps_succeed && weather.undos_succeed && saga.steps.len() > 1 {
        let used_up = from.journal.steps.iter().any(|step| step.attempt >= step.attempts);
        assert!(status.is_final() || used_up, "in fair weather a person was called: {from:?} to {rest:?}");
    }
    if from.journal.crossed && status != JobStatus::NeedsAttention && !from.journal.status.is_final() {
        assert_eq!(status, JobStatus::Completed, "behind the pivot it is only ever finished: {from:?}");
    }
}

#[test]
fn a_replication_comes_to_a_true_end_from_every_state() {
    use ReplicationStatus as S;
    let found = search(REPLICATION);
    assert!(found.states > 5_000 && found.recoveries == found.states * WEATHERS.len(), "{} states", found.states);
    for (job, end) in [
        (JobStatus::Completed, S::Completed),
        (JobStatus::Failed, S::Failed),
        (JobStatus::Cancelled, S::Cancelled),
        (JobStatus::RolledBack, S::Cancelled),
        (JobStatus::NeedsAttention, S::NeedsAttention),
    ] {
        assert!(found.ends.contains(&(job, Domain::Replication(end))), "no way leads to {job}: {:?}", found.ends);
    }
}

#[test]
fn a_live_failover_comes_to_a_true_end_from_every_state() {
    failover(LIVE, FailoverKind::Live);
}

#[test]
fn a_test_failover_comes_to_a_true_end_from_every_state() {
    failover(TEST, FailoverKind::Test);
}

fn failover(saga: Saga, kind: FailoverKind) {
    use FailoverStatus as S;
    let found = search(saga);
    assert!(found.states > 3_000 && found.recoveries == found.states * WEATHERS.len(), "{} states", found.states);
    for (job, end) in [
        (JobStatus::Completed, S::Completed),
        (JobStatus::Failed, S::Failed),
        (JobStatus::Cancelled, S::Cancelled),
        (JobStatus::RolledBack, S::RolledBack),
        (JobStatus::NeedsAttention, S::CleanupRequired),
    ] {
        assert!(found.ends.contains(&(job, Domain::Failover(kind, end))), "no way leads to {job}: {:?}", found.ends);
    }
}
