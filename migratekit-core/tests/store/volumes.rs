//! Volumes and all around them: snapshots, ledgers, devices, mounts, operations, figures, names of exports; and failovers.

use std::collections::BTreeMap;

use migratekit_core::id::{DiskKey, JobId, OperationId, VolumeId};
use migratekit_core::model::{
    Context, DiskSpec, ExportMapping, FailoverJob, FailoverKind, FailoverStatus, FailoverTrigger, JobStatus, MappingStatus, OperationKind,
    OperationMode, OperationStatus, OperationTrigger, Provisioning, SnapshotStatus, SnapshotTrigger, VolumeMount, VolumeStatus,
    VolumeTrigger,
};
use migratekit_core::store::{FailoverSearch, NewDevice, NewFailover, NewOperation, NewVolume, OperationEnd, OperationSearch};
use migratekit_core::testing::catalog::change;
use migratekit_core::{ErrorKind, Store, on_both_catalogs};

use crate::rows::{add_job, add_vm, at, call, vm};

on_both_catalogs! {
    a_volume_changes_from_the_state_it_was_seen_in,
    a_write_past_the_export_voids_the_ledger,
    a_device_is_one_volumes,
    a_volume_goes_over_and_comes_back,
    what_is_mounted_is_known_until_it_is_not,
    an_operation_keeps_every_change,
    operations_are_searched_by_pages,
    figures_are_counted_and_kept,
    a_name_stays_with_its_disk,
    a_failover_changes_from_the_state_it_was_seen_in,
    failovers_are_searched_and_those_over_are_found,
}

/// A VM with a volume for each of `count` disks.
async fn volumes(store: &Store, count: u32) -> (Context, JobId, Vec<VolumeId>) {
    let vm = &vm("web", "vm-1");
    add_vm(store, vm).await.unwrap();
    let job = add_job(store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    let mut made = Vec::new();
    for n in 0..count {
        let spec = &DiskSpec {
            key: DiskKey::new(2000 + n),
            path: "p".into(),
            capacity_bytes: 1 << 30,
            datastore: String::new(),
            unit_number: Some(n),
            label: "l".into(),
            provisioning: Provisioning::Thin,
            uuid: None,
        };
        let id = VolumeId::generate();
        let new = &NewVolume { id: &id, context: &vm.id, disk: spec.key, size_bytes: 1 << 30, made_by: &job };
        call!(store, |tx| tx.replicas().see_disk(&vm.id, spec)).unwrap();
        call!(store, |tx| tx.replicas().add_volume(new)).unwrap();
        made.push(id);
    }
    (vm.clone(), job, made)
}

async fn a_volume_changes_from_the_state_it_was_seen_in(store: Store) {
    let (_, _, ids) = &volumes(&store, 3).await;
    let seen = &call!(store, |tx| tx.volumes().get(&ids[0])).unwrap();
    assert_eq!(call!(store, |tx| tx.volumes().change(seen, VolumeTrigger::Attach)).unwrap(), VolumeStatus::Attached);
    assert_eq!(call!(store, |tx| tx.volumes().change(seen, VolumeTrigger::Attach)).unwrap_err().kind(), ErrorKind::Changed);
    assert!(call!(store, |tx| tx.volumes().change(seen, VolumeTrigger::Detach)).is_err(), "the model refuses it");
    assert_eq!(call!(store, |tx| tx.volumes().get(&ids[0])).unwrap().status, VolumeStatus::Attached);

    use SnapshotTrigger as T;
    assert_eq!(call!(store, |tx| tx.volumes().change_snapshot(seen, T::Begin, None)).unwrap(), SnapshotStatus::Creating);
    assert_eq!(call!(store, |tx| tx.volumes().change_snapshot(seen, T::Begin, None)).unwrap_err().kind(), ErrorKind::Changed);
    let now = &call!(store, |tx| tx.volumes().get(&ids[0])).unwrap();
    call!(store, |tx| tx.volumes().change_snapshot(now, T::Made, Some("snap-7"))).unwrap();
    let made = &call!(store, |tx| tx.volumes().get(&ids[0])).unwrap();
    assert_eq!((made.snapshot_status, made.snapshot_id.as_deref()), (SnapshotStatus::Ready, Some("snap-7")));
    assert!(made.snapshot_created_at.is_some());
    call!(store, |tx| tx.volumes().change_snapshot(made, T::RollBack, None)).unwrap();
    let back = &call!(store, |tx| tx.volumes().get(&ids[0])).unwrap();
    assert_eq!(
        (back.snapshot_status, back.snapshot_id.as_deref()),
        (SnapshotStatus::RollbackComplete, Some("snap-7")),
        "it is still there"
    );
    call!(store, |tx| tx.volumes().change_snapshot(back, T::Remove, None)).unwrap();
    let gone = call!(store, |tx| tx.volumes().get(&ids[0])).unwrap();
    assert_eq!((gone.snapshot_status, gone.snapshot_id, gone.snapshot_created_at), (SnapshotStatus::None, None, None));

    let first = call!(store, |tx| tx.volumes().page(None, 2)).unwrap();
    let second = first[1].row;
    let rest = call!(store, |tx| tx.volumes().page(Some(second), 2)).unwrap();
    assert_eq!(first.iter().chain(&rest).map(|volume| &volume.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    let nobody = &VolumeId::generate();
    let missing = call!(store, |tx| tx.volumes().get(nobody)).unwrap_err();
    assert_eq!((missing.kind(), missing.context_value("volume")), (ErrorKind::NotFound, Some(nobody.as_str())));
}

async fn a_write_past_the_export_voids_the_ledger(store: Store) {
    let (_, _, ids) = &volumes(&store, 1).await;
    let id = &ids[0];
    for _ in 0..2 {
        call!(store, |tx| tx.volumes().keep_ledger(id, "/v/ledger.0")).unwrap();
    }
    let elsewhere = call!(store, |tx| tx.volumes().keep_ledger(id, "/other")).unwrap_err();
    assert_eq!((elsewhere.kind(), elsewhere.context_value("path")), (ErrorKind::AlreadyExists, Some("/v/ledger.0")));
    assert_eq!(call!(store, |tx| tx.volumes().raise_generation(id)).unwrap(), 1);
    call!(store, |tx| tx.volumes().keep_ledger(id, "/v/ledger.1")).unwrap();
    let known = call!(store, |tx| tx.volumes().ledgers(id)).unwrap();
    let places: Vec<_> = known.iter().map(|l| (l.generation, l.path.as_str(), l.voided_at.is_some())).collect();
    assert_eq!(places, [(1, "/v/ledger.1", false), (0, "/v/ledger.0", true)]);
    call!(store, |tx| tx.volumes().forget_ledger(id, 0)).unwrap();
    assert_eq!(call!(store, |tx| tx.volumes().forget_ledger(id, 0)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(call!(store, |tx| tx.volumes().ledgers(id)).unwrap().len(), 1);
    let nobody = &VolumeId::generate();
    assert_eq!(call!(store, |tx| tx.volumes().raise_generation(nobody)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(call!(store, |tx| tx.volumes().keep_ledger(nobody, "/x")).unwrap_err().kind(), ErrorKind::NotFound);
}

fn device<'a>(volume: &'a VolumeId, vm_id: &'a str) -> NewDevice<'a> {
    NewDevice { volume, vm_id, mode: OperationMode::Oma, cloud_device_id: Some(3), cloud_state: "Ready", size_bytes: 1 << 30 }
}

async fn a_device_is_one_volumes(store: Store) {
    let (vm, _, ids) = &volumes(&store, 2).await;
    let (one, two) = (&device(&ids[0], "oma"), &device(&ids[1], "oma"));
    let first = &call!(store, |tx| tx.devices().attach(one)).unwrap();
    assert_eq!((&first.context, first.cloud_device_id, first.device_path.as_ref(), first.seen_here), (&vm.id, Some(3), None, false));
    let twice = call!(store, |tx| tx.devices().attach(one)).unwrap_err();
    assert_eq!((twice.kind(), twice.context_value("unique")), (ErrorKind::AlreadyExists, Some("volume_uuid")));
    let second = &call!(store, |tx| tx.devices().attach(two)).unwrap();
    // No placeholder: two that are not known yet are not in each other's way; one device is one volume's.
    call!(store, |tx| tx.devices().found(first, Some("/dev/vdb"))).unwrap();
    let taken = call!(store, |tx| tx.devices().found(second, Some("/dev/vdb"))).unwrap_err();
    assert_eq!((taken.kind(), taken.context_value("unique")), (ErrorKind::AlreadyExists, Some("device_path")));
    let by_path = call!(store, |tx| tx.devices().by_path("/dev/vdb")).unwrap().unwrap();
    assert!(by_path.volume == ids[0] && by_path.seen_here);
    call!(store, |tx| tx.devices().found(first, None)).unwrap();
    assert_eq!(call!(store, |tx| tx.devices().by_path("/dev/vdb")).unwrap(), None);
    call!(store, |tx| tx.devices().synced(first, "Allocated", None)).unwrap();
    let now = call!(store, |tx| tx.devices().of_volume(&ids[0])).unwrap().unwrap();
    assert_eq!((now.cloud_state.as_str(), now.cloud_device_id, now.last_sync.is_some(), now.seen_here), ("Allocated", None, true, false));
    assert_eq!(call!(store, |tx| tx.devices().of_machine("oma")).unwrap().len(), 2);
    let all = &call!(store, |tx| tx.devices().page(None)).unwrap();
    assert_eq!((all.len(), call!(store, |tx| tx.devices().page(Some(&all[0].id))).unwrap().len()), (2, 1));
    call!(store, |tx| tx.devices().detach(&ids[0])).unwrap();
    assert_eq!(call!(store, |tx| tx.devices().of_volume(&ids[0])).unwrap(), None);
    let missing = [
        call!(store, |tx| tx.devices().detach(&ids[0])),
        call!(store, |tx| tx.devices().found(first, None)),
        call!(store, |tx| tx.devices().synced(first, "x", None)),
    ];
    assert!(missing.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::NotFound), "{missing:?}");
    let nobody = VolumeId::generate();
    let stray = &device(&nobody, "oma");
    assert_eq!(call!(store, |tx| tx.devices().attach(stray)).unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_volume_goes_over_and_comes_back(store: Store) {
    let (_, _, ids) = &volumes(&store, 1).await;
    let new = &device(&ids[0], "oma");
    let here = &call!(store, |tx| tx.devices().attach(new)).unwrap();
    call!(store, |tx| tx.devices().found(here, Some("/dev/vdb"))).unwrap();
    assert_eq!(call!(store, |tx| tx.devices().switch(here, "i-9")).unwrap(), OperationMode::Failover);
    assert_eq!(call!(store, |tx| tx.devices().switch(here, "i-9")).unwrap_err().kind(), ErrorKind::Changed);
    let there = &call!(store, |tx| tx.devices().of_volume(&ids[0])).unwrap().unwrap();
    assert_eq!((there.vm_id.as_str(), there.mode, &there.device_path, there.seen_here), ("i-9", OperationMode::Failover, &None, false));
    assert_eq!(call!(store, |tx| tx.devices().switch(there, "oma")).unwrap(), OperationMode::Oma);
}

async fn what_is_mounted_is_known_until_it_is_not(store: Store) {
    let (_, job, ids) = &volumes(&store, 2).await;
    let rows = call!(store, |tx| tx.volumes().page(None, 10)).unwrap();
    let mount = |n: usize, job: Option<&JobId>| VolumeMount {
        volume: rows[n].row,
        job: job.cloned(),
        device_path: format!("/dev/vd{n}"),
        mount_point: "/mnt/ß".into(),
        filesystem: Some("ntfs".into()),
        is_read_only: n == 0,
        mounted_at: at(5),
        unmounted_at: None,
    };
    let (first, second) = (&mount(0, Some(job)), &mount(1, None));
    for new in [first, second] {
        call!(store, |tx| tx.mounts().mounted(new)).unwrap();
    }
    assert_eq!(call!(store, |tx| tx.mounts().open(None)).unwrap(), [first.clone(), second.clone()]);
    assert_eq!(call!(store, |tx| tx.mounts().open(Some(job))).unwrap(), std::slice::from_ref(first));
    call!(store, |tx| tx.mounts().unmounted(first.volume, "/mnt/ß")).unwrap();
    assert_eq!(call!(store, |tx| tx.mounts().unmounted(first.volume, "/mnt/ß")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(call!(store, |tx| tx.mounts().open(None)).unwrap(), std::slice::from_ref(second));
    assert_eq!(ids.len(), rows.len());
}

async fn begin(store: &Store, kind: OperationKind, volume: Option<&VolumeId>, vm_id: Option<&str>) -> OperationId {
    let (id, request) = (OperationId::generate(), &serde_json::json!({ "size": 7 }));
    let new = &NewOperation { id: &id, kind, volume, vm_id, request };
    call!(store, |tx| tx.volume_operations().begin(new)).unwrap();
    id
}

async fn an_operation_keeps_every_change(store: Store) {
    use {OperationStatus as S, OperationTrigger as T};
    let (volume, none) = (&VolumeId::generate(), &OperationEnd::default());
    let id = &begin(&store, OperationKind::Create, None, Some("oma")).await;
    let seen = &call!(store, |tx| tx.volume_operations().get(id)).unwrap();
    assert_eq!((seen.status, seen.kind, &seen.volume, seen.request["size"].as_i64()), (S::Pending, OperationKind::Create, &None, Some(7)));
    assert!(call!(store, |tx| tx.volume_operations().change(seen, T::Complete, none)).is_err(), "the model refuses it");
    assert_eq!(call!(store, |tx| tx.volume_operations().change(seen, T::Begin, none)).unwrap(), S::Executing);
    assert_eq!(call!(store, |tx| tx.volume_operations().change(seen, T::Begin, none)).unwrap_err().kind(), ErrorKind::Changed);
    let runs = &call!(store, |tx| tx.volume_operations().get(id)).unwrap();
    assert_eq!(runs.completed_at, None);
    let answer = &serde_json::json!({ "id": volume });
    let end = &OperationEnd { volume: Some(volume), response: Some(answer), error: None };
    assert_eq!(call!(store, |tx| tx.volume_operations().change(runs, T::Complete, end)).unwrap(), S::Completed);
    let done = call!(store, |tx| tx.volume_operations().get(id)).unwrap();
    assert_eq!((done.volume.as_ref(), done.response.as_ref(), done.completed_at.is_some()), (Some(volume), Some(answer), true));

    let other = &begin(&store, OperationKind::Detach, Some(volume), None).await;
    let seen = &call!(store, |tx| tx.volume_operations().get(other)).unwrap();
    let failed = &OperationEnd { error: Some("431: not attached"), ..OperationEnd::default() };
    call!(store, |tx| tx.volume_operations().change(seen, T::Fail, failed)).unwrap();
    assert_eq!(call!(store, |tx| tx.volume_operations().get(other)).unwrap().error.as_deref(), Some("431: not attached"));
    let history = call!(store, |tx| tx.volume_operations().history(id)).unwrap();
    assert_eq!(
        history.iter().map(|c| (c.from, c.to)).collect::<Vec<_>>(),
        [(None, S::Pending), (Some(S::Pending), S::Executing), (Some(S::Executing), S::Completed)]
    );
    let history = call!(store, |tx| tx.volume_operations().history(other)).unwrap();
    assert_eq!(history[1].details, Some(serde_json::json!({ "error": "431: not attached" })));
    let nobody = &OperationId::generate();
    assert_eq!(call!(store, |tx| tx.volume_operations().get(nobody)).unwrap_err().kind(), ErrorKind::NotFound);
}

async fn operations_are_searched_by_pages(store: Store) {
    let volume = &VolumeId::generate();
    let mut ids = Vec::new();
    for n in 0..5 {
        let kind = if n % 2 == 0 { OperationKind::Attach } else { OperationKind::Detach };
        ids.push(begin(&store, kind, (n < 3).then_some(volume), (n == 4).then_some("i-9")).await);
    }
    ids.reverse();
    let (mut seen, mut last) = (Vec::new(), None);
    loop {
        let before = &last;
        let search = &OperationSearch { before: before.as_ref(), ..OperationSearch::default() };
        let page = call!(store, |tx| tx.volume_operations().page(search, 2)).unwrap();
        let Some(end) = page.last() else { break };
        last = Some(end.id.clone());
        seen.extend(page.into_iter().map(|operation| operation.id));
    }
    assert_eq!(seen, ids, "the newest first, each once");
    let all = OperationSearch::default();
    for (search, found) in [
        (OperationSearch { kind: Some(OperationKind::Detach), ..all }, 2),
        (OperationSearch { volume: Some(volume), ..all }, 3),
        (OperationSearch { vm_id: Some("i-9"), ..all }, 1),
        (OperationSearch { status: Some(OperationStatus::Pending), kind: Some(OperationKind::Attach), volume: Some(volume), ..all }, 2),
        (OperationSearch { status: Some(OperationStatus::Failed), ..all }, 0),
    ] {
        let search = &search;
        assert_eq!(call!(store, |tx| tx.volume_operations().page(search, 10)).unwrap().len(), found, "{search:?}");
    }
}

async fn figures_are_counted_and_kept(store: Store) {
    let empty = call!(store, |tx| tx.metrics().take()).unwrap();
    assert_eq!((empty.operations, empty.pending, empty.mean_ms, empty.failed_percent), (0, 0, 0.0, 0.0));
    let (_, _, ids) = &volumes(&store, 1).await;
    let new = &device(&ids[0], "oma");
    call!(store, |tx| tx.devices().attach(new)).unwrap();
    for _ in 0..4 {
        begin(&store, OperationKind::Attach, Some(&ids[0]), None).await;
    }
    let kind = if store.backend() == migratekit_core::store::Backend::Sqlite { "\"type\"" } else { "`type`" };
    for (n, (kind_is, status)) in [("create", "completed"), ("attach", "completed"), ("attach", "failed")].iter().enumerate() {
        change(&store, &format!("UPDATE volume_operations SET {kind} = '{kind_is}', status = '{status}', created_at = 1000, completed_at = {} WHERE id = (SELECT id FROM (SELECT MIN(id) AS id FROM volume_operations WHERE status = 'pending') x)", 1000 + (n + 1) * 2000)).await.unwrap();
    }
    let now = call!(store, |tx| tx.metrics().take()).unwrap();
    assert_eq!((now.operations, now.pending, now.devices), (4, 1, 1));
    assert_eq!(now.by_kind, BTreeMap::from([(OperationKind::Create, 1), (OperationKind::Attach, 3)]));
    assert_eq!(now.by_status[&OperationStatus::Completed], 2);
    assert!((now.mean_ms - 3.0).abs() < 1e-9 && (now.failed_percent - 100.0 / 3.0).abs() < 1e-9, "{now:?}");
    let kept = call!(store, |tx| tx.metrics().page(None, 1)).unwrap();
    assert_eq!((kept.len(), &kept[0].by_kind, kept[0].failed_percent), (1, &now.by_kind, now.failed_percent));
    let before = Some(kept[0].at);
    assert!(call!(store, |tx| tx.metrics().page(before, 10)).unwrap().iter().all(|figures| figures.operations == 0));
}

async fn a_name_stays_with_its_disk(store: Store) {
    let name = |disk: u32, name: &str, device: Option<&str>| ExportMapping {
        vm_id: "420a".into(),
        disk_unit_number: disk,
        vm_name: "web".into(),
        export_name: name.into(),
        device_path: device.map(str::to_owned),
        status: MappingStatus::Active,
        created_at: at(1),
        updated_at: at(1),
    };
    let (first, second) = (&name(0, "migration-vm-420a-disk0", Some("/dev/vdb")), &name(1, "migration-vm-420a-disk1", None));
    for new in [first, second] {
        call!(store, |tx| tx.export_names().assign(new)).unwrap();
    }
    let taken = &name(2, "migration-vm-420a-disk0", None);
    assert_eq!(call!(store, |tx| tx.export_names().assign(taken)).unwrap_err().context_value("unique"), Some("export_name"));
    let taken = &name(1, "x", Some("/dev/vdb"));
    assert_eq!(call!(store, |tx| tx.export_names().assign(taken)).unwrap_err().context_value("unique"), Some("device_path"));
    assert_eq!(call!(store, |tx| tx.export_names().retire("420a")).unwrap(), 2);
    let rows = call!(store, |tx| tx.export_names().of("420a")).unwrap();
    assert!(rows.iter().all(|row| row.status == MappingStatus::Inactive && row.device_path.is_none()));
    let again = &name(0, "another-name", Some("/dev/vdc"));
    let back = call!(store, |tx| tx.export_names().assign(again)).unwrap();
    assert_eq!((back.export_name.as_str(), back.status), ("migration-vm-420a-disk0", MappingStatus::Active), "the name that it had");
    assert_eq!(back.device_path.as_deref(), Some("/dev/vdc"));
    assert!(call!(store, |tx| tx.export_names().of("other")).unwrap().is_empty());
}

async fn failover(store: &Store, of: &Context, kind: FailoverKind, cleanup_at: Option<i64>) -> FailoverJob {
    let job = &add_job(store, Some(&of.id), None, JobStatus::Completed, 1).await.unwrap();
    let spec = &serde_json::json!({ "cpus": 2 });
    let new =
        &NewFailover { job, of, kind, point: None, source_vm_spec: Some(spec), network_mappings: None, cleanup_at: cleanup_at.map(at) };
    call!(store, |tx| tx.failovers().begin(new)).unwrap();
    assert_eq!(call!(store, |tx| tx.failovers().begin(new)).unwrap_err().kind(), ErrorKind::AlreadyExists);
    call!(store, |tx| tx.failovers().get(job)).unwrap()
}

async fn advance(store: &Store, seen: &FailoverJob, steps: &[FailoverTrigger]) -> FailoverJob {
    let mut now = seen.clone();
    for step in steps {
        let seen = &now;
        call!(store, |tx| tx.failovers().change(seen, *step, None)).unwrap();
        now = call!(store, |tx| tx.failovers().get(&seen.id)).unwrap();
    }
    now
}

/// From the begin to a machine that runs.
const FORWARD: [FailoverTrigger; 6] = [
    FailoverTrigger::Validate,
    FailoverTrigger::Snapshot,
    FailoverTrigger::CreateVm,
    FailoverTrigger::SwitchVolume,
    FailoverTrigger::PowerOn,
    FailoverTrigger::Succeed,
];

async fn a_failover_changes_from_the_state_it_was_seen_in(store: Store) {
    let vm = &vm("web ß", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let seen = &failover(&store, vm, FailoverKind::Live, None).await;
    assert_eq!((seen.status, seen.source_vm_name.as_str(), seen.started_at), (FailoverStatus::Pending, "web ß", None));
    assert_eq!((seen.source_vm_spec.as_ref().unwrap()["cpus"].as_i64(), &seen.destination_vm_id), (Some(2), &None));
    assert!(call!(store, |tx| tx.failovers().change(seen, FailoverTrigger::Succeed, None)).is_err(), "the model refuses it");
    call!(store, |tx| tx.failovers().change(seen, FailoverTrigger::Validate, None)).unwrap();
    let late = call!(store, |tx| tx.failovers().change(seen, FailoverTrigger::Validate, None)).unwrap_err();
    assert_eq!((late.kind(), late.context_value("job")), (ErrorKind::Changed, Some(seen.id.as_str())));
    let now = &call!(store, |tx| tx.failovers().get(&seen.id)).unwrap();
    assert!(now.started_at.is_some() && now.completed_at.is_none());
    call!(store, |tx| tx.failovers().set_machine(&seen.id, Some("i-9"))).unwrap();
    call!(store, |tx| tx.failovers().change(now, FailoverTrigger::LeaveBehind, Some("the snapshot stayed"))).unwrap();
    let left = call!(store, |tx| tx.failovers().get(&seen.id)).unwrap();
    assert_eq!((left.status, left.destination_vm_id.as_deref()), (FailoverStatus::CleanupRequired, Some("i-9")));
    assert_eq!((left.error_message.as_deref(), left.completed_at.is_some()), (Some("the snapshot stayed"), true));
    let back = advance(&store, &left, &[FailoverTrigger::CleanUp]).await;
    assert_eq!((back.completed_at, back.error_message.as_deref()), (None, Some("the snapshot stayed")));
    let nobody = &JobId::generate();
    let missing = [
        call!(store, |tx| tx.failovers().get(nobody)).unwrap_err(),
        call!(store, |tx| tx.failovers().set_machine(nobody, None)).unwrap_err(),
        call!(store, |tx| tx.failovers().set_cleanup(nobody, None)).unwrap_err(),
    ];
    assert!(missing.iter().all(|error| error.kind() == ErrorKind::NotFound), "{missing:#?}");
}

async fn failovers_are_searched_and_those_over_are_found(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let live = &failover(&store, vm, FailoverKind::Live, Some(10)).await;
    let early = &failover(&store, vm, FailoverKind::Test, Some(10)).await;
    let late = &failover(&store, vm, FailoverKind::Test, None).await;
    for one in [live, early, late] {
        advance(&store, one, &FORWARD).await;
    }
    call!(store, |tx| tx.failovers().set_cleanup(&late.id, Some(at(20)))).unwrap();
    let due = |moment: i64| {
        let store = &store;
        async move { call!(store, |tx| tx.failovers().due(at(moment))).unwrap().into_iter().map(|f| f.id).collect::<Vec<_>>() }
    };
    assert!(due(9).await.is_empty());
    assert_eq!(due(10).await, std::slice::from_ref(&early.id), "a live one does not end by itself");
    assert_eq!(due(20).await, [early.id.clone(), late.id.clone()]);
    let ended = call!(store, |tx| tx.failovers().get(&early.id)).unwrap();
    advance(&store, &ended, &[FailoverTrigger::CleanUp]).await;
    assert_eq!(due(20).await, std::slice::from_ref(&late.id), "one that is being ended is not due again");

    let all = FailoverSearch::default();
    let first = call!(store, |tx| tx.failovers().page(&all, 2)).unwrap();
    assert_eq!(first.iter().map(|f| &f.id).collect::<Vec<_>>(), [&late.id, &early.id]);
    let rest = &FailoverSearch { before: Some(first[1].row), ..all };
    assert_eq!(call!(store, |tx| tx.failovers().page(rest, 2)).unwrap()[0].id, live.id);
    let tests = &FailoverSearch { context: Some(&vm.id), kind: Some(FailoverKind::Test), status: Some(FailoverStatus::Cleanup), ..all };
    assert_eq!(call!(store, |tx| tx.failovers().page(tests, 10)).unwrap().len(), 1);
}
