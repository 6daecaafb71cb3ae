//! What is known of a replica: disks, volumes, points, the history of passes; and the rows of replications.

use migratekit_core::id::{ContextId, DiskKey, JobId, PointId, VolumeId};
use migratekit_core::model::{
    CbtEntry, Context, ContextStatus, ContextTrigger, DiskSpec, JobCounts, JobStatus, OsFamily, Percent, Point, PointDisk, PointStatus,
    PowerState, Provisioning, ReplicationMode, ReplicationStatus, ReplicationTrigger, SyncType, VolumeStatus,
};
use migratekit_core::store::{NewVolume, ReplicationEnd, VmLook};
use migratekit_core::testing::catalog::change;
use migratekit_core::{ErrorKind, Store, on_both_catalogs};

use crate::rows::{add_job, add_vm, at, call, vm};

on_both_catalogs! {
    a_disk_keeps_its_row_over_all_passes,
    a_volume_belongs_to_one_disk,
    a_point_takes_the_place_of_the_one_before,
    a_replica_that_is_given_up_holds_no_point,
    the_history_of_passes_is_read_backwards,
    a_replication_goes_through_its_states,
    a_vm_is_looked_at_counted_and_changed,
}

const KEYS: [u32; 2] = [2000, 2001];

fn spec(key: u32) -> DiskSpec {
    DiskSpec {
        key: DiskKey::new(key),
        path: format!("[ds] web/{key}.vmdk"),
        capacity_bytes: 6 << 40,
        datastore: "ds".into(),
        unit_number: Some(key - 2000),
        label: "Hard disk ß".into(),
        provisioning: Provisioning::Thin,
        uuid: Some(format!("uuid-{key}")),
    }
}

/// A VM with two disks, a volume each, and the job that made them.
async fn replica(store: &Store) -> (Context, JobId, [VolumeId; 2]) {
    let vm = &vm("web", "vm-1");
    add_vm(store, vm).await.unwrap();
    let job = add_job(store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    let volumes = [VolumeId::generate(), VolumeId::generate()];
    for (key, id) in KEYS.iter().zip(&volumes) {
        let spec = &spec(*key);
        call!(store, |tx| tx.replicas().see_disk(&vm.id, spec)).unwrap();
        let new = &NewVolume { id, context: &vm.id, disk: spec.key, size_bytes: spec.capacity_bytes, made_by: &job };
        call!(store, |tx| tx.replicas().add_volume(new)).unwrap();
    }
    (vm.clone(), job, volumes)
}

async fn a_disk_keeps_its_row_over_all_passes(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let job = &add_job(&store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    change(&store, &format!("INSERT INTO replication_jobs (id, vm_context_id, source_vm_name, replication_type, created_at, updated_at) VALUES ('{job}', '{}', 'web', 'full', 1, 1)", vm.id)).await.unwrap();
    let first = &spec(2000);
    call!(store, |tx| tx.replicas().see_disk(&vm.id, first)).unwrap();
    call!(store, |tx| tx.replicas().set_change_id(&vm.id, first.key, job, Some("52 e1/7"), 6 << 40)).unwrap();
    let disks = call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap();
    assert_eq!((disks.len(), &disks[0].spec, disks[0].volume.as_ref(), disks[0].removed_at), (1, first, None, None));
    assert_eq!((disks[0].change_id.as_deref(), disks[0].bytes_synced), (Some("52 e1/7"), 6 << 40));

    call!(store, |tx| tx.replicas().lose_disk(&vm.id, first.key)).unwrap();
    let lost = call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap()[0].removed_at;
    call!(store, |tx| tx.replicas().lose_disk(&vm.id, first.key)).unwrap();
    assert!(lost.is_some() && call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap()[0].removed_at == lost, "the first time counts");

    // It comes back, larger, and lies elsewhere: the same row, its change id still there.
    let again = &DiskSpec { path: "[ds2] web.vmdk".into(), capacity_bytes: 7 << 40, unit_number: None, uuid: None, ..first.clone() };
    call!(store, |tx| tx.replicas().see_disk(&vm.id, again)).unwrap();
    let now = call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap();
    assert_eq!((now.len(), now[0].id, &now[0].spec, now[0].removed_at), (1, disks[0].id, again, None));
    assert_eq!((now[0].change_id.as_deref(), now[0].created_at), (Some("52 e1/7"), disks[0].created_at));

    let nobody = DiskKey::new(9);
    assert_eq!(call!(store, |tx| tx.replicas().lose_disk(&vm.id, nobody)).unwrap_err().kind(), ErrorKind::NotFound);
    let unknown = call!(store, |tx| tx.replicas().set_change_id(&vm.id, nobody, job, None, 0)).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "a change id of an unknown disk goes to no other");
    let gone = &ContextId::generate();
    assert_eq!(call!(store, |tx| tx.replicas().see_disk(gone, first)).unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_volume_belongs_to_one_disk(store: Store) {
    let (vm, job, volumes) = &replica(&store).await;
    let known = call!(store, |tx| tx.replicas().volumes(&vm.id)).unwrap();
    assert_eq!(known.iter().map(|v| (v.disk.device_key(), &v.id)).collect::<Vec<_>>(), [(2000, &volumes[0]), (2001, &volumes[1])]);
    assert_eq!((known[0].status, known[0].size_bytes, known[0].made_by.as_ref()), (VolumeStatus::Ready, 6 << 40, Some(job)));
    let disks = call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap();
    assert_eq!(disks[1].volume.as_ref(), Some(&volumes[1]));

    let new = |id, key| NewVolume { id, context: &vm.id, disk: DiskKey::new(key), size_bytes: 5, made_by: job };
    let (again, other) = (&new(&volumes[0], 2000), VolumeId::generate());
    call!(store, |tx| tx.replicas().add_volume(again)).unwrap();
    assert_eq!(call!(store, |tx| tx.replicas().volumes(&vm.id)).unwrap(), known, "known already: nothing changes");
    let second = &new(&other, 2000);
    let refused = call!(store, |tx| tx.replicas().add_volume(second)).unwrap_err();
    assert_eq!((refused.kind(), refused.context_value("unique")), (ErrorKind::AlreadyExists, Some("vm_context_id,disk_key")));
    let stray = &new(&other, 2009);
    assert_eq!(call!(store, |tx| tx.replicas().add_volume(stray)).unwrap_err().kind(), ErrorKind::NotFound, "no disk, no volume");
    assert_eq!(call!(store, |tx| tx.replicas().volumes(&vm.id)).unwrap().len(), 2, "and no row of it");

    call!(store, |tx| tx.replicas().resize_volume(&volumes[0], 9 << 40)).unwrap();
    assert_eq!(call!(store, |tx| tx.replicas().volumes(&vm.id)).unwrap()[0].size_bytes, 9 << 40);
    call!(store, |tx| tx.replicas().set_generation(&volumes[0], 7)).unwrap();
    assert_eq!(call!(store, |tx| tx.replicas().volumes(&vm.id)).unwrap()[0].generation, 7);
    let other = &other;
    let missing = [call!(store, |tx| tx.replicas().resize_volume(other, 1)), call!(store, |tx| tx.replicas().set_generation(other, 1))];
    assert!(missing.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::NotFound), "{missing:?}");

    let key = DiskKey::new(2000);
    call!(store, |tx| tx.replicas().forget_volume(&vm.id, key)).unwrap();
    call!(store, |tx| tx.replicas().forget_volume(&vm.id, key)).unwrap();
    let disks = call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap();
    assert_eq!((disks.len(), disks[0].volume.as_ref()), (2, None), "the disk stays");
}

/// A point of both disks.
async fn point(store: &Store, vm: &Context, job: &JobId, volumes: &[VolumeId; 2], taken: i64) -> (Point, Vec<PointDisk>) {
    let rows = call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap();
    let id = PointId::generate();
    let disks = rows.iter().zip(volumes).map(|(row, volume)| PointDisk {
        point: id.clone(),
        disk: row.id,
        key: row.spec.key,
        volume: volume.clone(),
        capacity_bytes: row.spec.capacity_bytes,
        change_id: Some(format!("52 e1/{taken}")),
        first_digest: "a".repeat(64),
        last_digest: "b".repeat(64),
        pass: id.to_string(),
        spool: Some("spool".into()),
        applied: false,
    });
    let disks: Vec<_> = disks.collect();
    let point = Point {
        id,
        context: vm.id.clone(),
        job: job.clone(),
        status: PointStatus::Committed,
        taken_at: at(taken),
        committed_at: at(taken),
        applied_at: None,
        quiesced: taken % 2 == 0,
        disk_count: 2,
    };
    (point, disks)
}

async fn a_point_takes_the_place_of_the_one_before(store: Store) {
    let (vm, job, volumes) = &replica(&store).await;
    assert_eq!(call!(store, |tx| tx.replicas().point(&vm.id)).unwrap(), None);
    let (first, disks) = &point(&store, vm, job, volumes, 10).await;
    call!(store, |tx| tx.replicas().commit_point(first, disks)).unwrap();
    call!(store, |tx| tx.replicas().commit_point(first, disks)).unwrap();
    let (kept, held) = call!(store, |tx| tx.replicas().point(&vm.id)).unwrap().unwrap();
    assert_eq!((&kept.id, kept.status, kept.taken_at, kept.quiesced, &held), (&first.id, PointStatus::Committed, at(10), true, disks));

    // It is not in the volumes yet: no other takes its place, and no volume of it is forgotten.
    let (second, more) = &point(&store, vm, job, volumes, 21).await;
    assert!(call!(store, |tx| tx.replicas().commit_point(second, more)).is_err());
    let key = DiskKey::new(2000);
    let held = call!(store, |tx| tx.replicas().forget_volume(&vm.id, key)).unwrap_err();
    assert_eq!((held.kind(), held.message()), (ErrorKind::Busy, "a point is in it"));

    call!(store, |tx| tx.replicas().applied(first)).unwrap();
    assert_eq!(
        call!(store, |tx| tx.replicas().applied(first)).unwrap_err().kind(),
        ErrorKind::Changed,
        "seen as committed, and is applied"
    );
    let (now, held) = &call!(store, |tx| tx.replicas().point(&vm.id)).unwrap().unwrap();
    assert!(now.status == PointStatus::Applied && now.applied_at.is_some());
    assert!(held.iter().all(|disk| disk.applied && disk.spool.is_none()));
    call!(store, |tx| tx.replicas().applied(now)).unwrap();

    let (id, first_mib, last_mib) = (&first.id, &"c".repeat(64), &"d".repeat(64));
    call!(store, |tx| tx.replicas().grow_point_disk(id, key, 8 << 40, first_mib, last_mib)).unwrap();
    let grown = call!(store, |tx| tx.replicas().point(&vm.id)).unwrap().unwrap().1.remove(0);
    assert_eq!((grown.capacity_bytes, &grown.first_digest, &grown.last_digest), (8 << 40, first_mib, last_mib));
    let nobody = DiskKey::new(9);
    let missing = call!(store, |tx| tx.replicas().grow_point_disk(id, nobody, 1, "", "")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    call!(store, |tx| tx.replicas().commit_point(second, more)).unwrap();
    let (newest, held) = call!(store, |tx| tx.replicas().point(&vm.id)).unwrap().unwrap();
    assert_eq!((&newest.id, newest.status, held.len()), (&second.id, PointStatus::Committed, 2));
}

async fn a_replica_that_is_given_up_holds_no_point(store: Store) {
    let (vm, job, volumes) = &replica(&store).await;
    let (first, disks) = &point(&store, vm, job, volumes, 10).await;
    call!(store, |tx| tx.replicas().commit_point(first, disks)).unwrap();
    change(&store, "UPDATE ossea_volumes SET status = 'attached' WHERE disk_key = 'disk-2001'").await.unwrap();
    let attached = call!(store, |tx| tx.replicas().give_up(&vm.id)).unwrap_err();
    assert_eq!((attached.kind(), attached.context_value("volume")), (ErrorKind::Busy, Some(volumes[1].as_str())));
    assert!(call!(store, |tx| tx.replicas().point(&vm.id)).unwrap().is_some(), "all or nothing");

    change(&store, "UPDATE ossea_volumes SET status = 'detached' WHERE disk_key = 'disk-2001'").await.unwrap();
    for _ in 0..2 {
        let left = call!(store, |tx| tx.replicas().give_up(&vm.id)).unwrap();
        assert_eq!(left.iter().map(|volume| &volume.id).collect::<Vec<_>>(), [&volumes[0], &volumes[1]]);
        let known = call!(store, |tx| tx.replicas().volumes(&vm.id)).unwrap();
        assert!(known.iter().all(|volume| volume.status == VolumeStatus::Destroy));
        assert_eq!(call!(store, |tx| tx.replicas().point(&vm.id)).unwrap(), None);
        assert!(call!(store, |tx| tx.replicas().disks(&vm.id)).unwrap().iter().all(|disk| disk.change_id.is_none()));
    }
    // Row by row, each behind its volume; what is left is told.
    let key = DiskKey::new(2000);
    call!(store, |tx| tx.replicas().forget_volume(&vm.id, key)).unwrap();
    assert_eq!(call!(store, |tx| tx.replicas().give_up(&vm.id)).unwrap().len(), 1);
}

async fn the_history_of_passes_is_read_backwards(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let job = &add_job(&store, Some(&vm.id), None, JobStatus::Completed, 1).await.unwrap();
    change(&store, &format!("INSERT INTO replication_jobs (id, vm_context_id, source_vm_name, replication_type, created_at, updated_at) VALUES ('{job}', '{}', 'web', 'full', 1, 1)", vm.id)).await.unwrap();
    for n in 0..5_u64 {
        let entry = &CbtEntry {
            context: vm.id.clone(),
            job: (n == 4).then(|| job.clone()),
            disk: DiskKey::new(2000),
            change_id: Some(format!("52 e1/{n}")),
            previous_change_id: n.checked_sub(1).map(|n| format!("52 e1/{n}")),
            sync_type: if n == 0 { SyncType::Full } else { SyncType::Incremental },
            blocks_changed: n,
            bytes_transferred: n << 40,
            duration_seconds: n,
            success: n != 3,
            created_at: at(1),
        };
        call!(store, |tx| tx.replicas().add_history(entry)).unwrap();
    }
    let last = call!(store, |tx| tx.replicas().history(&vm.id, 2)).unwrap();
    assert_eq!(last.iter().map(|entry| (entry.blocks_changed, entry.success)).collect::<Vec<_>>(), [(4, true), (3, false)]);
    assert_eq!((last[0].bytes_transferred, last[0].previous_change_id.as_deref()), (4 << 40, Some("52 e1/3")));
    let of_job = call!(store, |tx| tx.job_lists().disks_of(job)).unwrap();
    assert_eq!(of_job, last[..1], "those of one job");
}

async fn a_replication_goes_through_its_states(store: Store) {
    use ReplicationTrigger as T;
    let (vm, job, _) = &replica(&store).await;
    call!(store, |tx| tx.replications().begin(job, vm, ReplicationMode::Auto)).unwrap();
    assert_eq!(call!(store, |tx| tx.replications().begin(job, vm, ReplicationMode::Auto)).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let begun = call!(store, |tx| tx.contexts().get(&vm.id)).unwrap();
    assert!(begun.first_job_at.is_some() && begun.first_job_at <= begun.last_job_at);
    assert_eq!(call!(store, |tx| tx.replications().status(job)).unwrap(), ReplicationStatus::Pending);

    assert!(call!(store, |tx| tx.replications().enter(job, T::Copy, "x")).is_err(), "not before it is set up");
    for step in [T::Initialize, T::Analyze, T::Provision, T::Configure, T::Snapshot, T::Copy] {
        call!(store, |tx| tx.replications().enter(job, step, step.code())).unwrap();
    }
    let half = Percent::capped(50);
    call!(store, |tx| tx.replications().progress(job, half, 5 << 40, 6 << 40)).unwrap();
    call!(store, |tx| tx.replications().progress(job, Percent::ZERO, 0, 0)).unwrap();
    let row = call!(store, |tx| tx.job_lists().replication(job)).unwrap();
    assert_eq!((row.percent, row.bytes_transferred, row.status), (half, 5 << 40, ReplicationStatus::Replicating), "it never falls");
    let mark = Some((DiskKey::new(2000), "52 e1/2", Some("52 e1/1")));
    call!(store, |tx| tx.replications().marks(job, "migratekit-1", mark)).unwrap();
    call!(store, |tx| tx.replications().enter(job, T::Finalize, "releasing")).unwrap();

    let end = &ReplicationEnd { trigger: T::Prove, error: None, error_kind: None, point: None };
    call!(store, |tx| tx.replications().end(job, end)).unwrap();
    let row = call!(store, |tx| tx.job_lists().replication(job)).unwrap();
    assert_eq!((row.status, row.percent.get(), row.completed_at.is_some()), (ReplicationStatus::Completed, 100, true));
    assert!(call!(store, |tx| tx.replications().end(job, end)).is_err(), "an end is final");

    let failed = &add_job(&store, Some(&vm.id), Some(job), JobStatus::Running, 2).await.unwrap();
    call!(store, |tx| tx.replications().begin(failed, vm, ReplicationMode::Full)).unwrap();
    let end = &ReplicationEnd { trigger: T::Fail, error: Some("the source is gone"), error_kind: Some("unreachable"), point: None };
    call!(store, |tx| tx.replications().end(failed, end)).unwrap();
    let list = call!(store, |tx| tx.job_lists().replications(Some(&vm.id), None, 10)).unwrap();
    assert_eq!(list.iter().map(|row| row.status).collect::<Vec<_>>(), [ReplicationStatus::Failed, ReplicationStatus::Completed]);
    assert_eq!((list[0].error_message.as_deref(), list[0].mode), (Some("the source is gone"), ReplicationMode::Full));
    let after = Some((list[0].created_at, &list[0].id));
    assert_eq!(call!(store, |tx| tx.job_lists().replications(None, after, 10)).unwrap(), list[1..]);

    let nobody = &JobId::generate();
    let missing = [
        call!(store, |tx| tx.replications().status(nobody)).unwrap_err(),
        call!(store, |tx| tx.replications().enter(nobody, T::Initialize, "x")).unwrap_err(),
        call!(store, |tx| tx.replications().progress(nobody, half, 1, 1)).unwrap_err(),
        call!(store, |tx| tx.replications().marks(nobody, "x", None)).unwrap_err(),
        call!(store, |tx| tx.replications().end(nobody, end)).unwrap_err(),
        call!(store, |tx| tx.job_lists().replication(nobody)).unwrap_err(),
        call!(store, |tx| tx.replications().begin(nobody, vm, ReplicationMode::Full)).unwrap_err(),
    ];
    assert!(missing.iter().all(|error| error.kind() == ErrorKind::NotFound), "{missing:#?}");
}

async fn a_vm_is_looked_at_counted_and_changed(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let job = &add_job(&store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    call!(store, |tx| tx.replications().begin(job, vm, ReplicationMode::Full)).unwrap();
    let look = &VmLook {
        name: "web-2",
        instance_uuid: "5012-cd",
        path: "/dc/vm/moved/web-2",
        cpus: 8,
        memory_bytes: 1 << 42,
        os: OsFamily::Windows,
        power: PowerState::Off,
    };
    call!(store, |tx| tx.contexts().look(&vm.id, look)).unwrap();
    assert_eq!(call!(store, |tx| tx.contexts().change(vm, ContextTrigger::Began)).unwrap(), ContextStatus::Replicating);
    assert_eq!(call!(store, |tx| tx.contexts().change(vm, ContextTrigger::Began)).unwrap_err().kind(), ErrorKind::Changed);
    let refused = call!(store, |tx| tx.contexts().change(vm, ContextTrigger::TestRuns)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "the model refuses it");
    let counts = JobCounts { total: 3, successful: 2, failed: 1 };
    call!(store, |tx| tx.contexts().count(&vm.id, job, counts, false)).unwrap();
    assert_eq!(call!(store, |tx| tx.contexts().get(&vm.id)).unwrap().last_successful_job, None);
    call!(store, |tx| tx.contexts().count(&vm.id, job, counts, true)).unwrap();
    let now = call!(store, |tx| tx.contexts().get(&vm.id)).unwrap();
    assert_eq!((now.vm_name.as_str(), now.vm_path.as_str(), now.cpu_count, now.memory_bytes), ("web-2", "/dc/vm/moved/web-2", 8, 1 << 42));
    assert_eq!((now.os, now.power, now.instance_uuid.as_deref()), (OsFamily::Windows, PowerState::Off, Some("5012-cd")));
    assert_eq!((now.status, now.jobs, now.last_successful_job.as_ref()), (ContextStatus::Replicating, counts, Some(job)));
    let nobody = &ContextId::generate();
    let missing = [
        call!(store, |tx| tx.contexts().look(nobody, look)).unwrap_err(),
        call!(store, |tx| tx.contexts().count(nobody, job, counts, true)).unwrap_err(),
        call!(store, |tx| tx.contexts().hold(nobody)).unwrap_err(),
    ];
    assert!(missing.iter().all(|error| error.kind() == ErrorKind::NotFound), "{missing:#?}");
    let held = call!(store, |tx| tx.contexts().hold(&vm.id)).unwrap_err();
    assert_eq!((held.kind(), held.context_value("job")), (ErrorKind::Busy, Some(job.as_str())));
    change(&store, "UPDATE job_tracking SET status = 'completed'").await.unwrap();
    assert_eq!(call!(store, |tx| tx.contexts().hold(&vm.id)).unwrap().jobs, now.jobs);
}
