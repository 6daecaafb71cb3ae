//! Jobs as rows: begun, taken, held, changed, told of; their steps, intents, events and logs; the processes that run them.

use std::time::Duration;

use migratekit_core::id::{Epoch, JobId, RunnerId};
use migratekit_core::model::{EventKind, IntentStatus, Job, JobKind, JobStatus, LogLevel, Percent, StepStatus};
use migratekit_core::store::{JobFailure, JobNote, NewEvent, NewIntent, NewJob, NewLogLine, NewRunner, StepNote};
use migratekit_core::testing::catalog::{ask, change};
use migratekit_core::{ErrorKind, Store, Tx, on_both_catalogs};

use crate::rows::{add_job, add_vm, at, call, vm};

on_both_catalogs! {
    a_job_is_taken_by_one_and_held_by_its_epoch,
    a_lease_is_renewed_and_runs_out,
    a_job_changes_from_the_state_it_was_seen_in,
    what_a_job_is_asked_and_shows,
    a_job_that_needs_a_person_holds_its_vm_back,
    steps_keep_what_the_next_attempt_needs,
    an_intent_is_open_until_it_is_marked,
    events_rise_and_are_followed,
    lines_of_a_log_outlive_their_job,
    a_runner_lives_and_is_forgotten,
}

const LONG: Duration = Duration::from_secs(3600);

async fn begin(store: &Store, new: &NewJob<'_>) -> Job {
    call!(store, |tx| tx.jobs().insert(new)).unwrap();
    call!(store, |tx| tx.jobs().get(new.id)).unwrap()
}

/// A job of no VM, pending.
async fn job(store: &Store) -> Job {
    let (id, input) = (&JobId::generate(), &serde_json::json!({ "n": 1 }));
    begin(store, &NewJob { id, kind: JobKind::Discovery, context: None, parent: None, input, by: Some("ann") }).await
}

async fn runner(store: &Store) -> RunnerId {
    let id = RunnerId::generate();
    let new = &NewRunner { id: &id, host: "host ß", pid: 7 };
    call!(store, |tx| tx.runners().insert(new)).unwrap();
    id
}

async fn a_job_is_taken_by_one_and_held_by_its_epoch(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let (id, input) = (&JobId::generate(), &serde_json::json!({ "mode": "auto" }));
    let new = &NewJob { id, kind: JobKind::Replication, context: Some(&vm.id), parent: None, input, by: None };
    let seen = &begin(&store, new).await;
    assert_eq!((seen.status, &seen.input, seen.context.as_ref(), &seen.lease), (JobStatus::Pending, input, Some(&vm.id), &None));
    let second = &NewJob { id: &JobId::generate(), ..*new };
    let busy = call!(store, |tx| tx.jobs().insert(second)).unwrap_err();
    assert_eq!((busy.kind(), busy.context_value("unique")), (ErrorKind::AlreadyExists, Some("active_context_id")));
    assert_eq!(call!(store, |tx| tx.jobs().active_of(&vm.id)).unwrap().as_ref(), Some(id));
    let child = &NewJob { id: &JobId::generate(), parent: Some(id), ..*new };
    call!(store, |tx| tx.jobs().insert(child)).unwrap();
    assert_eq!(call!(store, |tx| tx.jobs().unfinished_children(id)).unwrap(), std::slice::from_ref(child.id));
    assert_eq!(call!(store, |tx| tx.jobs().unfinished()).unwrap().len(), 2);

    let (one, two) = (&runner(&store).await, &runner(&store).await);
    assert_eq!(call!(store, |tx| tx.jobs().to_drive(one, Duration::ZERO)).unwrap().len(), 2);
    let first = call!(store, |tx| tx.jobs().claim(seen, JobStatus::Running, one, LONG)).unwrap().unwrap();
    // Who saw it as it was before comes too late, and his look raised the VM's epoch for nothing.
    assert_eq!(call!(store, |tx| tx.jobs().claim(seen, JobStatus::Running, two, LONG)).unwrap(), None);
    assert!(call!(store, |tx| tx.jobs().hold(id, one, first)).unwrap());
    assert!(!call!(store, |tx| tx.jobs().hold(id, two, first)).unwrap());
    assert_eq!(call!(store, |tx| tx.jobs().held_by(one)).unwrap().len(), 1);
    assert_eq!(call!(store, |tx| tx.jobs().to_drive(two, Duration::ZERO)).unwrap().len(), 1, "only the child is free");

    // Taken over: the old holder's epoch is worth nothing any more.
    let held = &call!(store, |tx| tx.jobs().lock(id)).unwrap();
    let second = call!(store, |tx| tx.jobs().claim(held, JobStatus::Running, two, LONG)).unwrap().unwrap();
    assert!(second > first);
    assert!(!call!(store, |tx| tx.jobs().hold(id, one, first)).unwrap() && call!(store, |tx| tx.jobs().hold(id, two, second)).unwrap());
    let third = call!(store, |tx| tx.jobs().raise(id, &vm.id)).unwrap();
    assert!(third > second && call!(store, |tx| tx.jobs().hold(id, two, third)).unwrap());
    assert_eq!(call!(store, |tx| tx.contexts().get(&vm.id)).unwrap().epoch, third);
    call!(store, |tx| tx.jobs().release(id)).unwrap();
    assert_eq!(call!(store, |tx| tx.jobs().get(id)).unwrap().lease, None);
    let nobody = &JobId::generate();
    let missing = [
        call!(store, |tx| tx.jobs().get(nobody)).unwrap_err(),
        call!(store, |tx| tx.jobs().lock(nobody)).unwrap_err(),
        call!(store, |tx| tx.jobs().release(nobody)).unwrap_err(),
        call!(store, |tx| tx.jobs().raise(nobody, &vm.id)).unwrap_err(),
    ];
    assert!(missing.iter().all(|error| error.kind() == ErrorKind::NotFound), "{missing:#?}");
}

async fn a_lease_is_renewed_and_runs_out(store: Store) {
    let (seen, one, two) = (&job(&store).await, &runner(&store).await, &runner(&store).await);
    call!(store, |tx| tx.jobs().claim(seen, JobStatus::Running, one, Duration::ZERO)).unwrap().unwrap();
    let taken = &call!(store, |tx| tx.jobs().get(&seen.id)).unwrap();
    let other = JobId::generate();
    let (mine, foreign) = (&[seen.id.clone(), other][..], &[seen.id.clone()][..]);
    assert_eq!(call!(store, |tx| tx.jobs().renew(one, mine, LONG)).unwrap(), std::slice::from_ref(&seen.id), "those it still has");
    assert!(call!(store, |tx| tx.jobs().renew(two, foreign, LONG)).unwrap().is_empty());
    assert!(call!(store, |tx| tx.jobs().renew(one, &[], LONG)).unwrap().is_empty());
    let now = call!(store, |tx| tx.jobs().get(&seen.id)).unwrap().lease.unwrap();
    let before = taken.lease.as_ref().unwrap();
    assert!(now.until > before.until && now.renewals == before.renewals + 1);
    // Who watched the renewals stand still and saw one more meanwhile does not get it.
    assert_eq!(call!(store, |tx| tx.jobs().claim(taken, JobStatus::Running, two, LONG)).unwrap(), None);
    assert!(call!(store, |tx| tx.jobs().to_drive(two, Duration::ZERO)).unwrap().is_empty(), "a lease that holds");
    assert_eq!(call!(store, |tx| tx.jobs().to_drive(two, 2 * LONG)).unwrap().len(), 1, "one that is over soon");
}

async fn a_job_changes_from_the_state_it_was_seen_in(store: Store) {
    let id = &job(&store).await.id;
    let none = &JobNote::default();
    call!(store, |tx| tx.jobs().change(id, JobStatus::Pending, JobStatus::Running, none)).unwrap();
    let twice = call!(store, |tx| tx.jobs().change(id, JobStatus::Pending, JobStatus::Running, none)).unwrap_err();
    assert_eq!((twice.kind(), twice.context_value("from")), (ErrorKind::Changed, Some("pending")));
    let failure = &JobFailure { step: "copy".into(), kind: "unreachable".into(), message: "ß".repeat(70_000) };
    let note = &JobNote { failure: Some(failure), next_action: Some("retry_job"), ..JobNote::default() };
    call!(store, |tx| tx.jobs().change(id, JobStatus::Running, JobStatus::NeedsAttention, note)).unwrap();
    let stuck = call!(store, |tx| tx.jobs().get(id)).unwrap();
    assert_eq!((stuck.error_kind.as_deref(), stuck.failed_step.as_deref()), (Some("unreachable"), Some("copy")));
    assert_eq!((stuck.next_action.as_deref(), stuck.completed_at.is_some()), (Some("retry_job"), true));
    assert_eq!(stuck.error_message.unwrap().len(), 64 * 1024, "a text is cut between two letters");
    call!(store, |tx| tx.jobs().change(id, JobStatus::NeedsAttention, JobStatus::Running, none)).unwrap();
    assert_eq!(call!(store, |tx| tx.jobs().get(id)).unwrap().completed_at, None);
    call!(store, |tx| tx.jobs().change(id, JobStatus::Running, JobStatus::Completed, none)).unwrap();
    let done = call!(store, |tx| tx.jobs().get(id)).unwrap();
    assert_eq!((done.percent.get(), done.error_kind, done.failed_step, done.next_action), (100, None, None, None));
}

async fn what_a_job_is_asked_and_shows(store: Store) {
    let id = &job(&store).await.id;
    for wanted in [true, false] {
        call!(store, |tx| tx.jobs().ask_pause(id, wanted)).unwrap();
        assert_eq!(call!(store, |tx| tx.jobs().get(id)).unwrap().pause_requested, wanted);
    }
    call!(store, |tx| tx.jobs().ask_undo(id)).unwrap();
    call!(store, |tx| tx.jobs().cross(id)).unwrap();
    for percent in [30, 20] {
        call!(store, |tx| tx.jobs().show(id, Percent::capped(percent))).unwrap();
    }
    call!(store, |tx| tx.jobs().mark_unreachable(id)).unwrap();
    let since = call!(store, |tx| tx.jobs().get(id)).unwrap().unreachable_since;
    call!(store, |tx| tx.jobs().mark_unreachable(id)).unwrap();
    let outcome = &serde_json::json!({ "found": 3 });
    call!(store, |tx| tx.jobs().set_outcome(id, outcome)).unwrap();
    let failure = &JobFailure { step: String::new(), kind: "io".into(), message: "x".into() };
    call!(store, |tx| tx.jobs().fail(id, failure)).unwrap();
    let now = call!(store, |tx| tx.jobs().get(id)).unwrap();
    assert!(now.undo_requested && now.pivot_crossed && since.is_some() && now.unreachable_since == since);
    assert_eq!(
        (now.percent.get(), now.outcome.as_ref(), now.failed_step, now.created_by.as_deref()),
        (30, Some(outcome), None, Some("ann"))
    );
    let nobody = &JobId::generate();
    let missing = [
        call!(store, |tx| tx.jobs().ask_pause(nobody, true)),
        call!(store, |tx| tx.jobs().ask_undo(nobody)),
        call!(store, |tx| tx.jobs().cross(nobody)),
        call!(store, |tx| tx.jobs().show(nobody, Percent::ZERO)),
        call!(store, |tx| tx.jobs().mark_unreachable(nobody)),
        call!(store, |tx| tx.jobs().set_outcome(nobody, outcome)),
        call!(store, |tx| tx.jobs().fail(nobody, failure)),
    ];
    assert!(missing.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::NotFound), "{missing:?}");
}

async fn a_job_that_needs_a_person_holds_its_vm_back(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let pass = add_job(&store, Some(&vm.id), None, JobStatus::NeedsAttention, 1).await.unwrap();
    assert_eq!(call!(store, |tx| tx.jobs().holding_back(&vm.id)).unwrap(), None, "the next pass mends what {pass} left");
    let mut newest = pass;
    for at in [2, 3] {
        newest = add_job(&store, Some(&vm.id), None, JobStatus::NeedsAttention, at).await.unwrap();
        change(&store, &format!("UPDATE job_tracking SET operation = 'test_failover' WHERE id = '{newest}'")).await.unwrap();
    }
    assert_eq!(call!(store, |tx| tx.jobs().holding_back(&vm.id)).unwrap(), Some(newest));
    change(&store, "UPDATE job_tracking SET status = 'failed'").await.unwrap();
    assert_eq!(call!(store, |tx| tx.jobs().holding_back(&vm.id)).unwrap(), None);
}

async fn steps_keep_what_the_next_attempt_needs(store: Store) {
    let id = &job(&store).await.id;
    call!(store, |tx| tx.steps().insert(id, &["look", "copy"])).unwrap();
    assert_eq!(call!(store, |tx| tx.steps().insert(id, &["look"])).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let steps = call!(store, |tx| tx.steps().of_job(id)).unwrap();
    assert_eq!(
        steps.iter().map(|s| (s.sequence, s.name.as_str(), s.status)).collect::<Vec<_>>(),
        [(0, "look", StepStatus::Pending), (1, "copy", StepStatus::Pending)]
    );
    let step = steps[1].id;
    let begun = &StepNote { attempt: Some(2), error: None };
    call!(store, |tx| tx.steps().change(step, StepStatus::Pending, StepStatus::Running, begun)).unwrap();
    let again = call!(store, |tx| tx.steps().change(step, StepStatus::Pending, StepStatus::Running, begun)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Changed);
    call!(store, |tx| tx.steps().uncount(step)).unwrap();
    let (one, two) = (&serde_json::json!("ß"), &serde_json::json!([1]));
    for (key, value) in [("a", one), ("b", two), ("a", two)] {
        call!(store, |tx| tx.steps().remember(step, key, value)).unwrap();
    }
    assert_eq!(call!(store, |tx| tx.steps().recall(id, "a")).unwrap().as_ref(), Some(two));
    assert_eq!(call!(store, |tx| tx.steps().recall(id, "c")).unwrap(), None);
    let failed = &StepNote { attempt: None, error: Some("no") };
    call!(store, |tx| tx.steps().change(step, StepStatus::Running, StepStatus::Failed, failed)).unwrap();
    let now = call!(store, |tx| tx.steps().of_job(id)).unwrap().remove(1);
    assert_eq!((now.attempt, now.error_message.as_deref(), now.completed_at.is_some()), (1, Some("no"), true));
    call!(store, |tx| tx.steps().count_anew(id)).unwrap();
    call!(store, |tx| tx.steps().uncount(step)).unwrap();
    assert_eq!(call!(store, |tx| tx.steps().of_job(id)).unwrap()[1].attempt, 0, "never below nothing");
    let nobody = 99.try_into().unwrap();
    assert_eq!(call!(store, |tx| tx.steps().remember(nobody, "a", one)).unwrap_err().kind(), ErrorKind::NotFound);
}

async fn an_intent_is_open_until_it_is_marked(store: Store) {
    let id = &job(&store).await.id;
    let epoch = |n: u64| Epoch::try_from(n).unwrap();
    let new = &NewIntent { job: id, step: "copy", kind: "snapshot", name: "migratekit-1", epoch: epoch(3) };
    call!(store, |tx| tx.intents().intend(new)).unwrap();
    let seen = &call!(store, |tx| tx.intents().find(id, "snapshot", "migratekit-1")).unwrap().unwrap();
    assert_eq!((seen.status, seen.epoch, &seen.effect), (IntentStatus::Intended, epoch(3), &None));
    assert_eq!(call!(store, |tx| tx.intents().find(id, "volume", "migratekit-1")).unwrap(), None);
    call!(store, |tx| tx.intents().mark(seen, IntentStatus::Effected, Some("snap-7"))).unwrap();
    let twice = call!(store, |tx| tx.intents().mark(seen, IntentStatus::Effected, Some("snap-8"))).unwrap_err();
    assert_eq!((twice.kind(), twice.context_value("name")), (ErrorKind::Changed, Some("migratekit-1")));
    let made = &call!(store, |tx| tx.intents().of_job(id)).unwrap()[0];
    call!(store, |tx| tx.intents().mark(made, IntentStatus::LeftOver, None)).unwrap();
    let left = call!(store, |tx| tx.intents().in_state(IntentStatus::LeftOver)).unwrap();
    assert_eq!((left.len(), left[0].effect.as_deref()), (1, Some("snap-7")), "its id stays known");
    // A job that may have something outside stays.
    let stays = change(&store, &format!("DELETE FROM job_tracking WHERE id = '{id}'")).await.unwrap_err();
    assert_eq!(stays.kind(), ErrorKind::Busy);
    let again = &NewIntent { epoch: epoch(4), step: "copy-2", ..*new };
    call!(store, |tx| tx.intents().intend(again)).unwrap();
    let open = call!(store, |tx| tx.intents().of_job(id)).unwrap();
    assert_eq!((open.len(), open[0].status, open[0].epoch), (1, IntentStatus::Intended, epoch(4)));
    assert_eq!((open[0].effect.as_deref(), open[0].step.as_str()), (None, "copy-2"), "it is made anew");
}

async fn events_rise_and_are_followed(store: Store) {
    let id = &job(&store).await.id;
    assert_eq!(call!(store, |tx| tx.events().last()).unwrap(), None);
    let write = |tx: Tx| async move {
        let mut numbers = Vec::new();
        for n in 0..510 {
            let job = (n % 2 == 0).then(|| id.clone());
            let event = NewEvent { kind: EventKind::JobProgress, job, context: None, data: serde_json::json!({ "n": n }) };
            numbers.push(tx.events().append(&event).await?);
        }
        Ok(numbers)
    };
    let numbers = store.write("test", write).await.unwrap();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    assert_eq!(call!(store, |tx| tx.events().last()).unwrap(), numbers.last().copied());
    let first = call!(store, |tx| tx.events().after(None)).unwrap();
    assert_eq!((first.len(), first[0].id, &first[7].data), (500, numbers[0], &serde_json::json!({ "n": 7 })));
    let (last, hundredth) = (first[499].id, numbers[100]);
    let rest = call!(store, |tx| tx.events().after(Some(last))).unwrap();
    assert_eq!(rest.iter().map(|event| event.id).collect::<Vec<_>>(), numbers[500..]);
    let of_job = call!(store, |tx| tx.events().of_job_after(id, Some(hundredth))).unwrap();
    assert_eq!((of_job.len(), of_job[0].id), (204, numbers[102]));
}

async fn lines_of_a_log_outlive_their_job(store: Store) {
    let id = &job(&store).await.id;
    call!(store, |tx| tx.steps().insert(id, &["copy"])).unwrap();
    let step = call!(store, |tx| tx.steps().of_job(id)).unwrap()[0].id;
    let line = |level, message: &str, job: Option<&JobId>| NewLogLine {
        at: at(5),
        level,
        message: message.into(),
        attrs: Some(serde_json::json!({ "disk": "ß" })),
        job: job.cloned(),
        step: Some(step),
        phase: Some("copy".into()),
    };
    let lines = &[
        line(LogLevel::Debug, "quiet", Some(id)),
        line(LogLevel::Warn, "loud", Some(id)),
        line(LogLevel::Error, "of nobody", None),
        line(LogLevel::Info, "of one that is gone", Some(&JobId::generate())),
    ][..];
    call!(store, |tx| tx.logs().append(lines)).unwrap();
    call!(store, |tx| tx.logs().append(&[])).unwrap();
    let told = call!(store, |tx| tx.logs().of_job(id, None)).unwrap();
    assert_eq!((told.len(), told[0].message.as_str(), told[0].level, told[0].phase.as_deref()), (1, "loud", LogLevel::Warn, Some("copy")));
    let last = told[0].id;
    assert!(call!(store, |tx| tx.logs().of_job(id, Some(last))).unwrap().is_empty());
    let all = call!(store, |tx| tx.logs().after(None)).unwrap();
    let jobs: Vec<_> = all.iter().map(|event| (event.message.as_str(), event.job.as_ref())).collect();
    assert_eq!(jobs, [("quiet", Some(id)), ("loud", Some(id)), ("of nobody", None), ("of one that is gone", None)]);
    assert_eq!((all[1].step, all[1].at, &all[1].attrs), (Some(step), at(5), &Some(serde_json::json!({ "disk": "ß" }))));
    let third = all[2].id;
    assert_eq!(call!(store, |tx| tx.logs().after(Some(third))).unwrap(), all[3..]);
    change(&store, &format!("DELETE FROM job_tracking WHERE id = '{id}'")).await.unwrap();
    let kept = call!(store, |tx| tx.logs().after(None)).unwrap();
    assert!(kept.len() == 4 && kept.iter().all(|event| event.job.is_none() && event.step.is_none()));
}

async fn a_runner_lives_and_is_forgotten(store: Store) {
    let (one, two, three) = (&runner(&store).await, &runner(&store).await, &runner(&store).await);
    call!(store, |tx| tx.runners().beat(one)).unwrap();
    call!(store, |tx| tx.runners().stopped(two)).unwrap();
    let alive = call!(store, |tx| tx.runners().running()).unwrap();
    assert_eq!(alive.len(), 2);
    let first = alive.iter().find(|runner| runner.id == *one).unwrap();
    assert_eq!((first.heartbeats, first.pid, first.host.as_str()), (1, 7, "host ß"));
    let seen = &job(&store).await;
    call!(store, |tx| tx.jobs().claim(seen, JobStatus::Running, three, LONG)).unwrap().unwrap();
    assert_eq!(call!(store, |tx| tx.runners().sweep(LONG, 100)).unwrap(), 0);
    change(&store, "UPDATE runners SET seen_at = 1").await.unwrap();
    for _ in 0..2 {
        assert_eq!(call!(store, |tx| tx.runners().sweep(LONG, 1)).unwrap(), 1, "no more than it is asked to");
    }
    assert_eq!(call!(store, |tx| tx.runners().sweep(LONG, 1)).unwrap(), 0);
    assert_eq!(call!(store, |tx| tx.runners().find(one)).unwrap(), None);
    assert_eq!(call!(store, |tx| tx.runners().find(three)).unwrap().map(|runner| runner.pid), Some(7));
    assert_eq!(ask(&store, "SELECT id AS value FROM runners").await.unwrap(), [Some(three.to_string())], "it holds a job");
}
