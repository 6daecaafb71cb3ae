//! VMs under management, and the guard that one of them has at most one active job.

use migratekit_core::clock::Timestamp;
use migratekit_core::id::{ContextId, JobId};
use migratekit_core::model::{Context, JobKind, JobStatus};
use migratekit_core::store::{NewJob, Ways};
use migratekit_core::testing::catalog::{ask, change};
use migratekit_core::{ErrorKind, Result, Store, on_both_catalogs};

use crate::rows::{add_job, add_vm, call, vm};

on_both_catalogs! {
    a_vm_is_kept_as_it_was_given,
    names_may_repeat_but_a_machine_of_a_source_is_one,
    pages_show_each_vm_once_with_its_last_job,
    a_row_of_the_list_tells_what_holds_a_vm_and_what_it_has,
    one_active_job_for_a_vm,
    a_vm_goes_and_its_jobs_stay,
    a_vm_stays_while_something_outside_is_known_by_it_alone,
    a_job_begins_or_the_vm_goes,
    ways_and_scheduling_change,
    what_does_not_exist_is_not_found,
    a_wrong_code_and_a_long_text_are_refused,
    deleting_a_job_keeps_disks_and_change_ids,
    the_audit_of_an_enrollment_outlives_it,
}

async fn get(store: &Store, id: &ContextId) -> Option<Context> {
    match store.read("test", |tx| async move { tx.contexts().get(id).await }).await {
        Ok(vm) => Some(vm),
        Err(error) => {
            assert_eq!((error.kind(), error.context_value("context")), (ErrorKind::NotFound, Some(id.as_str())));
            None
        }
    }
}

async fn a_vm_is_kept_as_it_was_given(store: Store) {
    let mut given = vm("web ß 1", "vm-1");
    given.memory_bytes = 6 << 40;
    add_vm(&store, &given).await.unwrap();
    assert_eq!(get(&store, &given.id).await.as_ref(), Some(&given));
    let given = &given;
    let found = call!(store, |tx| tx.contexts().by_source("vcenter.example", "vm-1")).unwrap();
    let missed = call!(store, |tx| tx.contexts().by_source("other", "vm-1")).unwrap();
    assert_eq!((found.as_ref(), missed), (Some(given), None));
}

async fn names_may_repeat_but_a_machine_of_a_source_is_one(store: Store) {
    add_vm(&store, &vm("web", "vm-1")).await.unwrap();
    add_vm(&store, &vm("web", "vm-2")).await.unwrap();
    let twice = add_vm(&store, &vm("other", "vm-1")).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    assert_eq!(twice.context_value("unique"), Some("vmware_vm_id,vcenter_host"));
    let named = store.read("test", |tx| async move { tx.contexts().by_name("web").await }).await.unwrap();
    assert_eq!(named.len(), 2);
    // Names are compared byte by byte, on both.
    assert!(store.read("test", |tx| async move { tx.contexts().by_name("WEB").await }).await.unwrap().is_empty());
}

async fn pages_show_each_vm_once_with_its_last_job(store: Store) {
    let mut ids = Vec::new();
    for i in 0..25 {
        let vm = vm(&format!("vm {:02}", i / 2), &format!("vm-{i}"));
        add_vm(&store, &vm).await.unwrap();
        for at in 0..3 {
            let last = add_job(&store, Some(&vm.id), None, JobStatus::Completed, 1000 + at).await.unwrap();
            if at == 2 && i % 5 != 0 {
                ids.push((vm.id.clone(), Some(last)));
            } else if at == 2 {
                change(&store, &format!("DELETE FROM job_tracking WHERE context_id = '{}'", vm.id)).await.unwrap();
                ids.push((vm.id.clone(), None));
            }
        }
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let cursor = &after;
        let page = call!(store, |tx| tx.feed().contexts(cursor.as_ref(), 7)).unwrap();
        assert!(page.items.len() <= 7);
        seen.extend(page.items.into_iter().map(|row| (row.context, row.last_job.map(|job| job.job_id))));
        match page.next {
            // As a program gives it back: by its text.
            Some(next) => after = Some(next.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
}

async fn a_row_of_the_list_tells_what_holds_a_vm_and_what_it_has(store: Store) {
    let (busy, plain) = (&vm("a 'ß'~", "vm-1"), &vm("b", "vm-2"));
    for vm in [busy, plain] {
        add_vm(&store, vm).await.unwrap();
    }
    // An old job that was sent on again holds it; the newest is another.
    let holds = add_job(&store, Some(&busy.id), None, JobStatus::Running, 1).await.unwrap();
    let newest = add_job(&store, Some(&busy.id), None, JobStatus::Failed, 2).await.unwrap();
    for (key, size, removed) in [(2000, 5_i64 << 40, "NULL"), (2001, 7, "NULL"), (2002, 100, "1")] {
        change(&store, &format!("INSERT INTO vm_disks (vm_context_id, disk_id, vm_dk_path, datastore, label, capacity_bytes, removed_at, created_at, updated_at) VALUES ('{}', 'disk-{key}', 'p', '', 'l', {size}, {removed}, 1, 1)", busy.id)).await.unwrap();
    }
    for (seq, taken) in [(1, 10), (2, 20)] {
        change(&store, &format!("INSERT INTO replica_points (id, vm_context_id, job_id, seq, taken_at, disk_count, committed_at) VALUES ('pt-{seq}', '{}', 'job-1', {seq}, {taken}, 2, 1)", busy.id)).await.unwrap();
    }
    let page = call!(store, |tx| tx.feed().contexts(None, 1)).unwrap();
    let row = &page.items[0];
    assert_eq!((row.disk_count, row.capacity_bytes, row.last_point_at.map(Timestamp::as_micros)), (2, (5 << 40) + 7, Some(20)));
    let active = row.active_job.as_ref().unwrap();
    assert_eq!((&active.id, active.status, &row.last_job.as_ref().unwrap().job_id), (&holds, JobStatus::Running, &newest));
    let next = &page.next.unwrap();
    assert!(next.to_string().chars().all(|c| c.is_ascii_alphanumeric() || "-_~".contains(c)), "it needs no quoting: {next}");
    let page = call!(store, |tx| tx.feed().contexts(Some(next), 1)).unwrap();
    assert_eq!((&page.items[0].context, &page.items[0].active_job, page.items[0].disk_count, page.next), (&plain.id, &None, 0, None));
}

async fn one_active_job_for_a_vm(store: Store) {
    let vm = vm("web", "vm-1");
    add_vm(&store, &vm).await.unwrap();
    let first = add_job(&store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    for status in [JobStatus::Pending, JobStatus::Running, JobStatus::Paused, JobStatus::Cancelling, JobStatus::RollingBack] {
        let second = add_job(&store, Some(&vm.id), None, status, 2).await.unwrap_err();
        assert_eq!((second.kind(), second.context_value("unique")), (ErrorKind::AlreadyExists, Some("active_context_id")), "{status}");
    }
    // A part of the active job, a job that ended, a job of no VM: none is in the way.
    add_job(&store, Some(&vm.id), Some(&first), JobStatus::Running, 3).await.unwrap();
    add_job(&store, Some(&vm.id), None, JobStatus::Failed, 4).await.unwrap();
    add_job(&store, None, None, JobStatus::Running, 5).await.unwrap();
    change(&store, &format!("UPDATE job_tracking SET status = 'failed' WHERE id = '{first}'")).await.unwrap();
    add_job(&store, Some(&vm.id), None, JobStatus::Pending, 6).await.unwrap();
    let again = change(&store, &format!("UPDATE job_tracking SET status = 'running' WHERE id = '{first}'")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

async fn remove(store: &Store, id: &ContextId) -> Result<()> {
    store.write("test", |tx| async move { tx.contexts().remove(id).await }).await
}

async fn a_vm_goes_and_its_jobs_stay(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let done = add_job(&store, Some(&vm.id), None, JobStatus::Completed, 1).await.unwrap();
    let failed = add_job(&store, Some(&vm.id), None, JobStatus::Failed, 2).await.unwrap();
    change(&store, &format!("INSERT INTO vm_disks (vm_context_id, disk_id, vm_dk_path, datastore, label, capacity_bytes, created_at, updated_at) VALUES ('{}', 'disk-2000', 'p', '', 'l', 1, 1, 1)", vm.id)).await.unwrap();
    // The database itself does not let rows be orphaned.
    let raw = change(&store, &format!("DELETE FROM vm_replication_contexts WHERE context_id = '{}'", vm.id)).await.unwrap_err();
    assert_eq!(raw.kind(), ErrorKind::Busy, "{raw}");
    remove(&store, &vm.id).await.unwrap();
    assert_eq!(get(&store, &vm.id).await, None);
    let jobs = ask(&store, "SELECT id AS value FROM job_tracking WHERE context_id IS NULL ORDER BY id").await.unwrap();
    assert_eq!(jobs, [Some(done.to_string()), Some(failed.to_string())]);
    assert!(ask(&store, "SELECT disk_id AS value FROM vm_disks").await.unwrap().is_empty());
    assert_eq!(remove(&store, &vm.id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Whatever is outside must not be forgotten: each has its text, and each leaves the VM as it was.
async fn a_vm_stays_while_something_outside_is_known_by_it_alone(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let id = &vm.id;
    let ways = [
        (
            format!(
                "INSERT INTO job_tracking (id, operation, status, metadata, job_category, context_id, created_at, updated_at) VALUES ('job-1', 'replication', 'paused', '{{}}', 'replication', '{id}', 1, 1)"
            ),
            "UPDATE job_tracking SET status = 'cancelled'",
        ),
        (
            format!(
                "INSERT INTO ossea_volumes (vm_context_id, disk_key, volume_id, volume_name, size_bytes, volume_type, created_at, updated_at) VALUES ('{id}', 'disk-2000', 'vol-1', 'n', 1, 'ROOT', 1, 1)"
            ),
            "DELETE FROM ossea_volumes",
        ),
        (
            format!(
                "INSERT INTO nbd_exports (vm_context_id, volume_id, export_name, created_at, updated_at) VALUES ('{id}', 'vol-1', 'e', 1, 1)"
            ),
            "DELETE FROM nbd_exports",
        ),
        (
            "UPDATE vm_replication_contexts SET current_status = 'failed_over_test'".to_owned(),
            "UPDATE vm_replication_contexts SET current_status = 'ready_for_failover'",
        ),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (outside, ended) in &ways {
        change(&store, outside).await.unwrap();
        let stays = remove(&store, id).await.unwrap_err();
        assert_eq!((stays.kind(), stays.context_value("VM")), (ErrorKind::Busy, Some("web")), "{outside}: {stays}");
        assert!(texts.insert(stays.message().to_owned()), "two causes share a text: {stays}");
        assert!(get(&store, id).await.is_some());
        change(&store, ended).await.unwrap();
    }
    remove(&store, id).await.unwrap();
}

/// A job that begins and a VM that goes, both at once: one of them wins, and there is never a job that holds a VM which is gone.
async fn a_job_begins_or_the_vm_goes(store: Store) {
    let (mut begun, mut gone) = (0, 0);
    for round in 0..20 {
        let vm = &vm("web", &format!("vm-{round}"));
        add_vm(&store, vm).await.unwrap();
        let (job, input) = (&JobId::generate(), &serde_json::json!({}));
        let new = NewJob { id: job, kind: JobKind::Replication, context: Some(&vm.id), parent: None, input, by: None };
        let begin = store.write("test", |tx| async move { tx.jobs().insert(&new).await });
        let (begin, remove) = tokio::join!(begin, remove(&store, &vm.id));
        match (begin, remove) {
            (Ok(()), Err(busy)) => {
                assert_eq!((busy.kind(), busy.context_value("job")), (ErrorKind::Busy, Some(job.as_str())));
                begun += 1;
            }
            (Err(missing), Ok(())) => {
                assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
                gone += 1;
            }
            both => panic!("both or none: {both:?}"),
        }
    }
    assert_eq!(begun + gone, 20);
    let orphans = "SELECT id AS value FROM job_tracking WHERE status = 'pending' AND context_id IS NULL";
    assert!(ask(&store, orphans).await.unwrap().is_empty());
}

async fn ways_and_scheduling_change(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let next = Timestamp::from_micros(5).unwrap();
    call!(store, |tx| tx.contexts().set_scheduling(&vm.id, false, Some(next))).unwrap();
    let ways = Ways { credential: None, enrollment: None, cloud_config: None };
    call!(store, |tx| tx.contexts().set_ways(&vm.id, ways)).unwrap();
    let now = get(&store, &vm.id).await.unwrap();
    assert!(!now.scheduler_enabled && now.next_scheduled_at == Some(next) && now.updated_at > vm.updated_at);
    let nobody = 77.try_into().unwrap();
    let missing = store
        .write("test", |tx| async move {
            tx.contexts().set_ways(&vm.id, Ways { credential: Some(nobody), enrollment: None, cloud_config: None }).await
        })
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

async fn what_does_not_exist_is_not_found(store: Store) {
    let id = &ContextId::generate();
    assert_eq!(get(&store, id).await, None);
    let ways = Ways { credential: None, enrollment: None, cloud_config: None };
    let missing = [
        remove(&store, id).await,
        call!(store, |tx| tx.contexts().set_scheduling(id, true, None)),
        call!(store, |tx| tx.contexts().set_ways(id, ways)),
    ];
    assert!(missing.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::NotFound), "{missing:?}");
    assert_eq!(add_job(&store, Some(id), None, JobStatus::Pending, 1).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_wrong_code_and_a_long_text_are_refused(store: Store) {
    let mut given = vm("web", "vm-1");
    given.vm_name = "n".repeat(256);
    assert_eq!(add_vm(&store, &given).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    given.vm_name = "ß".repeat(255);
    add_vm(&store, &given).await.unwrap();
    for wrong in ["current_status = 'busy'", "scheduler_enabled = 2", "last_operation_summary = '{'"] {
        let refused = change(&store, &format!("UPDATE vm_replication_contexts SET {wrong}")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{wrong}: {refused}");
    }
    given.memory_bytes = u64::MAX;
    given.source_vm_id = "vm-2".into();
    assert_eq!(add_vm(&store, &given).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

async fn deleting_a_job_keeps_disks_and_change_ids(store: Store) {
    let vm = vm("web", "vm-1");
    add_vm(&store, &vm).await.unwrap();
    let job = add_job(&store, Some(&vm.id), None, JobStatus::Completed, 1).await.unwrap();
    let id = &vm.id;
    for sql in [
        format!(
            "INSERT INTO replication_jobs (id, vm_context_id, source_vm_name, replication_type, created_at, updated_at) VALUES ('{job}', '{id}', 'web', 'full', 1, 1)"
        ),
        format!(
            "INSERT INTO vm_disks (vm_context_id, job_id, disk_id, vm_dk_path, datastore, label, capacity_bytes, disk_change_id, created_at, updated_at) VALUES ('{id}', '{job}', 'disk-2000', 'p', '', 'l', 1, 'c/1', 1, 1)"
        ),
        format!(
            "INSERT INTO cbt_history (vm_context_id, job_id, disk_id, change_id, sync_type, created_at) VALUES ('{id}', '{job}', 'disk-2000', 'c/1', 'full', 1)"
        ),
        format!(
            "INSERT INTO replica_points (id, vm_context_id, job_id, seq, taken_at, disk_count, committed_at) VALUES ('pt-1', '{id}', '{job}', 1, 1, 1, 1)"
        ),
        format!("UPDATE vm_replication_contexts SET last_successful_job_id = '{job}' WHERE context_id = '{id}'"),
    ] {
        change(&store, &sql).await.unwrap();
    }
    change(&store, &format!("DELETE FROM job_tracking WHERE id = '{job}'")).await.unwrap();
    assert!(ask(&store, "SELECT id AS value FROM replication_jobs").await.unwrap().is_empty());
    assert_eq!(ask(&store, "SELECT disk_change_id AS value FROM vm_disks WHERE job_id IS NULL").await.unwrap(), [Some("c/1".to_owned())]);
    assert_eq!(ask(&store, "SELECT change_id AS value FROM cbt_history WHERE job_id IS NULL").await.unwrap(), [Some("c/1".to_owned())]);
    assert_eq!(ask(&store, "SELECT job_id AS value FROM replica_points").await.unwrap(), [Some(job.to_string())]);
    assert_eq!(get(&store, &vm.id).await.unwrap().last_successful_job, None);
}

async fn the_audit_of_an_enrollment_outlives_it(store: Store) {
    for sql in [
        "INSERT INTO vma_enrollments (id, vma_public_key, vma_name, vma_fingerprint, expires_at, created_at, updated_at) VALUES ('enr-1', 'k', 'agent', 'f', 1, 1, 1)",
        "INSERT INTO vma_connection_audit (enrollment_id, vma_name, event_type, created_at) VALUES ('enr-1', 'agent', 'approval', 1)",
        "DELETE FROM vma_enrollments WHERE id = 'enr-1'",
    ] {
        change(&store, sql).await.unwrap();
    }
    assert_eq!(
        ask(&store, "SELECT vma_name AS value FROM vma_connection_audit WHERE enrollment_id IS NULL").await.unwrap(),
        [Some("agent".to_owned())]
    );
}
