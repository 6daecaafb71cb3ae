//! What one process leaves behind the point of return, and what others do about it that were called for something else.

use std::fs;
use std::path::Path;

use migratekit_core::credentials::{Key, Keys, Vault};
use migratekit_core::engine::{Engine, NewCredential, Orphans, Which};
use migratekit_core::id::JobId;
use migratekit_core::model::{EventKind, JobStatus, ReplicationMode};
use migratekit_core::task::CancellationToken;
use migratekit_core::units::MIB;
use migratekit_core::{ErrorKind, Store, StoreOptions};

const SIZE: usize = 64 * MIB as usize;

/// As a command line opens the catalog: another process each time.
async fn engine(folder: &Path, key: &Key) -> Engine {
    let store = Store::open(&format!("sqlite://{}/catalog.db", folder.display()), StoreOptions::new()).await.unwrap();
    Engine::builder().store(store).vault(Vault::new(Keys::new(key.clone()))).orphans(Orphans::LayDown).build().await.unwrap()
}

fn fill(folder: &Path, byte: u8) {
    fs::write(folder.join("site/machines/web/0.img"), vec![byte; SIZE]).unwrap();
}

/// Replicates in a process that dies when the point is committed; the job, if it died in time.
async fn dies_behind_the_pivot(folder: &Path, key: &Key) -> Option<JobId> {
    let engine = engine(folder, key).await;
    let running = engine.start().await.unwrap();
    let job = engine.replications().start("web", ReplicationMode::Auto).await.unwrap().id().clone();
    let mut events = engine.jobs().follow(&job).await.unwrap();
    while events.next().await.unwrap().is_some_and(|event| event.kind != EventKind::PointCommitted) {}
    drop(running);
    (engine.jobs().get(&job).await.unwrap().status == JobStatus::Running).then_some(job)
}

#[tokio::test]
async fn a_recovery_hears_its_token_and_leaves_the_job_to_who_wants_it() {
    let (folder, key) = (tempfile::tempdir().unwrap(), Key::generate().unwrap());
    let machine = folder.path().join("site/machines/web");
    fs::create_dir_all(&machine).unwrap();
    let text = "name = \"web\"\nuuid = \"u\"\ncpus = 1\nmemory = \"1G\"\nos = \"linux\"\npower = \"off\"\n[[disk]]\nkey = 2000\npath = \"0.img\"\n";
    fs::write(machine.join("machine.toml"), text).unwrap();
    fill(folder.path(), 1);
    let first = engine(folder.path(), &key).await;
    let path = folder.path().join("site");
    first.credentials().add(NewCredential::Local { name: "lab".to_owned(), path, volumes: None }).await.unwrap();
    first.contexts().add("lab", Which::All).await.unwrap();
    let running = first.start().await.unwrap();
    let job = first.replications().start("web", ReplicationMode::Auto).await.unwrap();
    assert_eq!(first.jobs().wait(job.id()).await.unwrap().status, JobStatus::Completed);
    running.stop().await.unwrap();

    let mut byte = 2;
    let job = loop {
        fill(folder.path(), byte);
        match dies_behind_the_pivot(folder.path(), &key).await {
            Some(job) => break job,
            None => byte += 1,
        }
    };
    let next = engine(folder.path(), &key).await;
    let (ended, jobs) = (CancellationToken::new(), next.jobs());
    let owner = jobs.get(&job).await.unwrap().lease.unwrap().owner;
    let taken = async {
        while jobs.get(&job).await.unwrap().lease.is_none_or(|lease| lease.owner == owner) {
            tokio::task::yield_now().await;
        }
        ended.cancel();
    };
    let (recovered, ()) = tokio::join!(next.recover(&ended), taken);
    assert_eq!(recovered.unwrap_err().kind(), ErrorKind::Cancelled);
    let row = jobs.get(&job).await.unwrap();
    assert_eq!((row.status, row.pivot_crossed, row.lease), (JobStatus::Running, true, None));

    let next = engine(folder.path(), &key).await;
    assert_eq!(next.recover(&CancellationToken::new()).await.unwrap(), None, "it was laid down in good order");
    assert_eq!(next.unfinished_vms().await.unwrap(), ["web"]);
    let running = next.start().await.unwrap();
    next.replications().resume("web").await.unwrap();
    assert_eq!(next.jobs().wait(&job).await.unwrap().status, JobStatus::Completed);
    running.stop().await.unwrap();
    assert_eq!(next.unfinished_vms().await.unwrap(), [""; 0]);
}
