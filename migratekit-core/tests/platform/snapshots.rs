//! Snapshots of a site: what is left of an interrupted one, who may write meanwhile, which change ids are believed.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use migratekit_core::block::{FileDisk, OpenOptions};
use migratekit_core::id::{DiskKey, JobId};
use migratekit_core::platform::local::KEPT_MAPS;
use migratekit_core::platform::{Changes, Consistency, Snapshot, SnapshotName, Source};
use migratekit_core::task::{CancellationToken, Passed};
use migratekit_core::testing::platform::SourceRig;
use migratekit_core::units::MIB;
use migratekit_core::{ErrorKind, Result};

use crate::site::{Site, toml};

const DISK: u32 = 2000;

async fn snap(site: &Site, job: &JobId) -> Result<Snapshot> {
    site.site.create_snapshot(&site.machine(), &SnapshotName::of(job), &Passed::default(), &CancellationToken::new()).await
}

/// Takes a snapshot and removes it again.
async fn mark(site: &Site) -> Snapshot {
    let made = snap(site, &JobId::generate()).await.unwrap();
    site.site.remove_snapshot(&site.machine(), &made.name).await.unwrap();
    made
}

async fn ask(site: &Site, since: &Snapshot) -> Changes {
    let key = DiskKey::new(DISK);
    let now = snap(site, &JobId::generate()).await.unwrap();
    let answer = site.site.changes(&now, key, &since.disk(key).unwrap().change_id, &CancellationToken::new()).await.unwrap();
    site.site.remove_snapshot(&site.machine(), &now.name).await.unwrap();
    answer
}

fn refusal(changes: Changes) -> String {
    match changes {
        Changes::Refused(why) => why,
        Changes::Areas(areas) => panic!("believed: {areas:?}"),
    }
}

#[tokio::test]
async fn what_an_interrupted_snapshot_left_is_no_snapshot_and_is_replaced() {
    let site = Site::new().await;
    let job = JobId::generate();
    let made = snap(&site, &job).await.unwrap();
    assert_eq!(made.consistency, Consistency::Stopped);
    // As a crash leaves it: all but the record.
    std::fs::remove_file(site.path("snapshots").join(made.name.to_string()).join("snapshot.json")).unwrap();
    assert_eq!(site.site.find_snapshot(&site.machine(), &made.name).await.unwrap(), None);
    assert_eq!(site.site.snapshots(&site.machine()).await.unwrap()[0].ours.as_ref(), Some(&made.name));
    let again = snap(&site, &job).await.unwrap();
    assert_ne!(again.disk(DiskKey::new(DISK)).unwrap().change_id, made.disk(DiskKey::new(DISK)).unwrap().change_id);
    assert!(site.site.remove_snapshot(&site.machine(), &made.name).await.unwrap());
    assert_eq!(std::fs::read_dir(site.path("snapshots")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_snapshot_tells_how_it_goes_on() {
    let site = Site::new().await;
    let heard: Arc<Mutex<Vec<u64>>> = Arc::default();
    let ear = Arc::clone(&heard);
    let passed = Passed::to(move |bytes| ear.lock().unwrap().push(bytes));
    let name = SnapshotName::of(&JobId::generate());
    let made = site.site.create_snapshot(&site.machine(), &name, &passed, &CancellationToken::new()).await.unwrap();
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.iter().sum::<u64>(), made.disks.iter().map(|disk| disk.size_bytes).sum::<u64>());
    assert!(heard.iter().all(|bytes| *bytes <= MIB), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_somebody_writes_is_not_frozen() {
    let site = Site::new().await;
    let writer = FileDisk::open(site.disk(DiskKey::new(2001)), OpenOptions::default()).await.unwrap();
    let error = snap(&site, &JobId::generate()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("disk-2001") && error.to_string().contains("stop the machine"), "{error}");
    drop(writer);
    snap(&site, &JobId::generate()).await.unwrap();
    FileDisk::open(site.disk(DiskKey::new(2001)), OpenOptions::default()).await.expect("the hold ends with the snapshot");
}

#[tokio::test]
async fn a_running_machine_gives_the_state_of_a_power_cut() {
    let site = Site::new().await;
    std::fs::write(site.path("machine.toml"), toml("on")).unwrap();
    assert_eq!(mark(&site).await.consistency, Consistency::Crash);
}

#[tokio::test]
async fn change_ids_outlive_failed_passes_and_are_refused_when_their_map_is_not_right() {
    let site = Site::new().await;
    let first = mark(&site).await;
    assert!(matches!(ask(&site, &first).await, Changes::Areas(areas) if areas.is_empty()));
    // Passes that fail leave newer maps behind; the one asked about stays.
    for _ in 0..2 * KEPT_MAPS {
        mark(&site).await;
    }
    assert!(matches!(ask(&site, &first).await, Changes::Areas(_)));
    let maps = site.path(".migratekit/changes/disk-2000");
    assert_eq!(std::fs::read_dir(&maps).unwrap().count(), KEPT_MAPS + 1);

    let map = maps.join("1.map");
    let good = std::fs::read(&map).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&map).unwrap();
    file.write_all_at(b"x", good.len() as u64 - 5).unwrap();
    assert!(refusal(ask(&site, &first).await).contains("damaged"));
    let other = std::fs::read_dir(site.path(".migratekit/changes/disk-2001")).unwrap().next().unwrap().unwrap();
    std::fs::copy(other.path(), &map).unwrap();
    assert!(refusal(ask(&site, &first).await).contains("is another"));
    std::fs::remove_file(&map).unwrap();
    assert!(refusal(ask(&site, &first).await).contains("gone"));
}

#[tokio::test]
async fn change_ids_of_another_machine_at_the_same_place_are_refused() {
    let site = Site::new().await;
    let first = mark(&site).await;
    std::fs::write(site.path("machine.toml"), toml("off").replace("564d-1", "564d-2")).unwrap();
    assert!(refusal(ask(&site, &first).await).contains("not of this disk of this machine"));
    let second = mark(&site).await;
    std::fs::write(site.path(".migratekit/tracking.json"), "{").unwrap();
    assert!(refusal(ask(&site, &second).await).contains("records it was given from are lost"));
}

#[tokio::test]
async fn holes_stay_holes_in_a_snapshot() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::new().await;
    let key = DiskKey::new(DISK);
    site.grow(key, 1 << 34);
    site.write(key, (1 << 34) - 1, b"x");
    let made = snap(&site, &JobId::generate()).await.unwrap();
    let image = std::fs::metadata(&made.disk(key).unwrap().file).unwrap();
    assert_eq!(image.len(), 1 << 34);
    assert!(image.blocks() * 512 < 6 << 20, "{} bytes", image.blocks() * 512);
}
