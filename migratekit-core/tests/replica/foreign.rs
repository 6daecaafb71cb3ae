//! A volume that somebody else writes, seen by the seal that each good close leaves.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use migratekit_core::block::{BlockRead, FileDisk, OpenOptions, Persist};
use migratekit_core::copy::{Decision, FileSite, Point, PointName, Replica, ReplicaOptions};
use migratekit_core::units::{ByteRange, MIB};
use migratekit_core::{CancellationToken, ErrorKind};

const SIZE: u64 = 4 * MIB + 4096;

struct Volume(tempfile::TempDir);

impl Volume {
    async fn new() -> Self {
        let volume = Volume(tempfile::tempdir().unwrap());
        drop(FileDisk::open(volume.path(), OpenOptions { create_size: Some(SIZE), ..OpenOptions::default() }).await.unwrap());
        volume
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("volume")
    }

    fn site(&self) -> Arc<FileSite> {
        Arc::new(FileSite::beside(self.path()).unwrap())
    }

    fn options(size: u64, committed: Option<&Point>) -> ReplicaOptions {
        ReplicaOptions { identity: "the uuid".to_owned(), size, committed: committed.cloned() }
    }

    /// Opened once whoever had it open let go.
    async fn open(&self, committed: Option<&Point>) -> Replica {
        loop {
            match Replica::open(self.site(), Volume::options(SIZE, committed)).await {
                Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    }

    /// It holds `a`, and was closed well.
    async fn closed(&self) -> Point {
        let replica = self.open(None).await;
        let a = pass(&replica, "a", 0).await;
        replica.close().await.unwrap();
        a
    }

    fn write_past_us(&self) {
        fs::OpenOptions::new().write(true).open(self.path()).unwrap().write_all_at(b"?", 2 * MIB).unwrap();
    }
}

fn name(text: &str) -> PointName {
    text.parse().unwrap()
}

async fn pass(replica: &Replica, to: &str, at: u64) -> Point {
    let pass = replica.begin(&name(to), MIB).await.unwrap();
    pass.view(to).await.unwrap().write(at, Bytes::from_static(b"ours"), Persist::Cached).await.unwrap();
    pass.complete().await.unwrap()
}

async fn commit(replica: &Replica, to: &str) {
    replica.settle(&Decision::Committed(name(to)), &CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn what_was_closed_well_is_followed_however_often_it_is_only_read() {
    let volume = Volume::new().await;
    let a = volume.closed().await;
    for _ in 0..3 {
        assert!(volume.open(Some(&a)).await.is_followed(&a.name));
    }
    volume.write_past_us();
    for _ in 0..2 {
        let replica = volume.open(Some(&a)).await;
        assert!(!replica.is_followed(&a.name) && replica.ledger().generation() == 1 && !replica.is_stale());
    }
}

#[tokio::test]
async fn a_spool_that_waits_over_a_volume_that_was_written_is_stale_and_what_it_becomes_is_not_followed() {
    let volume = Volume::new().await;
    let a = volume.closed().await;
    let replica = volume.open(Some(&a)).await;
    pass(&replica, "b", MIB).await;
    drop(replica);
    // A pass touches only its spool: the seal of the volume is whole.
    volume.write_past_us();
    let replica = volume.open(Some(&a)).await;
    assert!(replica.is_stale() && !replica.is_followed(&a.name));
    commit(&replica, "b").await;
    assert!(!replica.is_followed(&name("b")), "the spool does not tell what lies beside its bytes");
    // A pass that began after that knows what it is added to.
    let replica = {
        drop(replica);
        volume.open(None).await
    };
    pass(&replica, "c", 3 * MIB).await;
    assert!(!replica.is_stale());
    commit(&replica, "c").await;
    assert!(replica.is_followed(&name("c")));
}

#[tokio::test]
async fn a_replica_that_grows_stays_followed_if_its_seal_was_broken_before_and_not_else() {
    let larger = SIZE + MIB;
    for (foreign, unsealed) in [(false, true), (true, true), (false, false)] {
        let volume = Volume::new().await;
        let a = volume.closed().await;
        if foreign {
            volume.write_past_us();
        }
        if unsealed {
            volume.open(Some(&a)).await.unseal().await.unwrap();
        }
        fs::OpenOptions::new().write(true).open(volume.path()).unwrap().set_len(larger).unwrap();
        // Read as it was, while it is larger already.
        assert_eq!(volume.open(Some(&a)).await.reader(&a.name).await.unwrap().info().size, SIZE);
        let grown = loop {
            match Replica::grow(volume.site(), &Volume::options(SIZE, Some(&a)), larger).await {
                Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                grown => break grown.unwrap(),
            }
        };
        let before = volume.open(Some(&a)).await;
        assert_eq!(before.reader(&a.name).await.unwrap().read(ByteRange::between(0, 4)).await.unwrap(), b"ours"[..]);
        drop(before);
        let replica = loop {
            match Replica::open(volume.site(), Volume::options(larger, Some(&grown))).await {
                Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(replica.is_followed(&a.name), !foreign && unsealed, "{foreign} {unsealed}");
    }
}
