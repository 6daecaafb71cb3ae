//! Replicas on real files: who may open them, over NBD with epochs, damaged, foreign, without room.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, FileDisk, OpenOptions, Persist, ZeroMode};
use migratekit_core::copy::ledger::RecordFile;
use migratekit_core::copy::{
    Decision, FileSite, Holding, PendingPass, Point, PointName, Replica, ReplicaOptions, ReplicaSite, Settled, SideFile, SiteDisk,
};
use migratekit_core::nbd::stream::split_any;
use migratekit_core::nbd::wire::ledger_state;
use migratekit_core::nbd::{Client, ConnectOptions, EpochKey, Server, ServerConfig, Uri};
use migratekit_core::task::Passed;
use migratekit_core::units::{ByteRange, MIB};
use migratekit_core::{CancellationToken, ErrorKind, Result};

const SIZE: u64 = 4 * MIB + 4096;

fn point(name: &str) -> PointName {
    name.parse().unwrap()
}

fn commit(name: &str) -> Decision {
    Decision::Committed(point(name))
}

async fn settle(replica: &Replica, decision: &Decision) -> Result<Settled> {
    replica.settle(decision, &CancellationToken::new()).await
}

struct Volume {
    folder: tempfile::TempDir,
}

impl Volume {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = OpenOptions { create_size: Some(SIZE), ..OpenOptions::default() };
        drop(FileDisk::open(folder.path().join("volume"), options).await.unwrap());
        Volume { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("volume.spool")
    }

    fn options(committed: Option<Point>) -> ReplicaOptions {
        ReplicaOptions { identity: "the uuid".to_owned(), size: SIZE, committed }
    }

    async fn open(&self, committed: Option<&Point>) -> Result<Replica> {
        Replica::open(Arc::new(FileSite::beside(self.path())?), Volume::options(committed.cloned())).await
    }

    /// A replica that holds `a`: ones from 1 MiB on, 1 MiB long.
    async fn with_a(&self) -> (Replica, Point) {
        let replica = self.open(None).await.unwrap();
        assert_eq!(replica.holding(), Holding::Nothing);
        let a = pass(&replica, "a", MIB, 1).await.unwrap();
        assert_eq!(settle(&replica, &commit("a")).await.unwrap(), Settled::Held);
        (replica, a)
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        fs::File::open(self.path()).unwrap().read_exact_at(&mut byte, at).unwrap();
        byte[0]
    }
}

/// A pass that writes a MiB of a value, and a byte at the very end.
async fn pass(replica: &Replica, name: &str, at: u64, value: u8) -> Result<Point> {
    let pass = replica.begin(&point(name), MIB).await?;
    let view = pass.view(name).await?;
    view.write(at, Bytes::from(vec![value; MIB as usize]), Persist::Cached).await?;
    view.write(SIZE - 1, Bytes::from(vec![value]), Persist::Cached).await?;
    pass.complete().await
}

async fn read(replica: &Replica, name: &str, at: u64) -> Result<u8> {
    Ok(replica.reader(&point(name)).await?.read(ByteRange::new(at, 1)?).await?[0])
}

/// Opens a path again that somebody is about to let go of.
async fn settled(path: &Path) {
    while FileDisk::open(path, OpenOptions::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_increment_leaves_the_volume_alone_until_it_is_committed() {
    let volume = Volume::new().await;
    let (replica, a) = volume.with_a().await;
    let b = pass(&replica, "b", 2 * MIB, 2).await.unwrap();
    assert_ne!(a.ends, b.ends);
    assert_eq!(replica.pending(), Some(PendingPass { point: point("b"), complete: true }));
    assert_eq!((volume.byte(2 * MIB), read(&replica, "a", 2 * MIB).await.unwrap(), read(&replica, "b", 2 * MIB).await.unwrap()), (0, 0, 2));
    // A second pass has to wait for the first.
    let error = replica.begin(&point("c"), 1).await.err().unwrap();
    assert_eq!((error.kind(), error.context_value("there")), (ErrorKind::AlreadyExists, Some("b")));
    // Who reads the old point keeps it.
    let reader = replica.reader(&point("a")).await.unwrap();
    let error = settle(&replica, &commit("b")).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("point")), (ErrorKind::Busy, Some("a")));
    drop(reader);
    let reader = replica.reader(&point("b")).await.unwrap();
    assert_eq!(settle(&replica, &commit("b")).await.unwrap(), Settled::Applied);
    assert_eq!(reader.read(ByteRange::new(2 * MIB, 1).unwrap()).await.unwrap()[0], 2, "a reader goes on when the spool is gone");
    assert_eq!((replica.holding(), replica.held().unwrap(), replica.pending()), (Holding::Point(point("b")), Some(b.clone()), None));
    assert_eq!(volume.byte(2 * MIB), 2);
    let states = replica.ledger().states(Some("b"), ByteRange::between(0, SIZE));
    let of = |at| states.iter().find(|(range, _)| range.contains(ByteRange::between(at, at + 1))).unwrap().1;
    assert_eq!((of(2 * MIB), of(MIB)), (ledger_state::PROVEN, ledger_state::PROVEN_BEFORE), "{states:?}");
    assert_eq!(replica.ledger().committed().unwrap().first, b.ends.first);
    assert_eq!(settle(&replica, &commit("b")).await.unwrap(), Settled::Held);
    let names: std::collections::BTreeSet<_> = fs::read_dir(volume.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["volume", "volume.ledger", "volume.point"].map(Into::into).into());
    assert_eq!(replica.begin(&point("b"), 1).await.err().unwrap().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_writer_of_an_earlier_run_is_stopped_when_the_pass_goes_on() {
    let volume = Volume::new().await;
    let replica = volume.open(None).await.unwrap();
    for (name, is_first) in [("a", true), ("b", false)] {
        let left = replica.begin(&point(name), MIB).await.unwrap();
        assert_eq!(left.is_first(), is_first);
        let left_export = left.export();
        let old = left_export.disk();
        old.write(0, Bytes::from(vec![9; 70_000]), Persist::Cached).await.unwrap();
        old.flush().await.unwrap();
        drop(left);
        old.write(0, Bytes::from_static(b"still"), Persist::Cached).await.unwrap();
        let pass = replica.begin(&point(name), MIB).await.unwrap();
        let error = old.write(0, Bytes::from_static(b"late"), Persist::Cached).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert!(left_export.raise_epoch(9).await.is_err() && old.flush().await.is_err());
        let new = pass.export().disk();
        new.write(0, Bytes::from_static(b"new"), Persist::Cached).await.unwrap();
        drop(new);
        pass.complete().await.unwrap();
        assert_eq!(read(&replica, name, 0).await.unwrap(), b'n');
        let _ = settle(&replica, &commit(name)).await.unwrap();
        assert_eq!((volume.byte(0), volume.byte(3), volume.byte(60_000)), (b'n', b'l', 9));
    }
}

#[tokio::test]
async fn an_abandoned_pass_leaves_nothing() {
    let volume = Volume::new().await;
    let (replica, a) = volume.with_a().await;
    assert_eq!(settle(&replica, &Decision::Abandoned).await.unwrap(), Settled::Nothing);
    pass(&replica, "b", 2 * MIB, 2).await.unwrap();
    assert_eq!(settle(&replica, &commit("a")).await.unwrap(), Settled::Held, "b waits for its own decision");
    assert!(volume.spool().exists());
    assert_eq!(settle(&replica, &Decision::Abandoned).await.unwrap(), Settled::Removed);
    assert!(!volume.spool().exists() && volume.byte(2 * MIB) == 0);
    replica.check(&a).await.unwrap();
    let error = settle(&replica, &commit("b")).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("committed"), error.context_value("holds")), (ErrorKind::Mismatch, Some("b"), Some("a")));
    pass(&replica, "b", 2 * MIB, 3).await.unwrap();
    assert_eq!(read(&replica, "b", 2 * MIB).await.unwrap(), 3);
}

#[tokio::test]
async fn only_one_process_has_it_and_what_is_foreign_is_refused() {
    let volume = Volume::new().await;
    let (replica, a) = volume.with_a().await;
    assert_eq!(volume.open(Some(&a)).await.err().unwrap().kind(), ErrorKind::Busy);
    let b = pass(&replica, "b", 2 * MIB, 2).await.unwrap();
    replica.close().await.unwrap();
    drop(replica);
    settled(&volume.path()).await;
    for good in [&a, &b] {
        drop(volume.open(Some(good)).await.unwrap());
        settled(&volume.path()).await;
    }
    let other = Point { name: point("x"), ..a.clone() };
    let error = volume.open(Some(&other)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let named = ["committed", "holds", "complete beside it"].map(|key| error.context_value(key));
    assert_eq!(named, [Some("x"), Some("a"), Some("b")]);
    // Another's identity, another size.
    let options = ReplicaOptions { identity: "another uuid".to_owned(), ..Volume::options(None) };
    let site = || Arc::new(FileSite::beside(volume.path()).unwrap());
    assert_eq!(Replica::open(site(), options).await.err().unwrap().kind(), ErrorKind::Mismatch);
    let options = ReplicaOptions { size: SIZE + 1, ..Volume::options(None) };
    assert_eq!(Replica::open(site(), options).await.err().unwrap().kind(), ErrorKind::Changed);
    // Somebody wrote to the volume: seen at both points, for the spool does not hide it.
    fs::OpenOptions::new().write(true).open(volume.path()).unwrap().write_all_at(b"x", 5).unwrap();
    for committed in [&a, &b] {
        let error = volume.open(Some(committed)).await.err().unwrap();
        assert_eq!((error.kind(), error.context_value("block")), (ErrorKind::ForeignContent, Some("first")), "{error}");
    }
    let over = Replica::start_over(site(), Volume::options(None), "foreign content").await.unwrap();
    assert_eq!((over.holding(), over.pending(), volume.spool().exists()), (Holding::Nothing, None, false));
    assert!(over.begin(&point("c"), SIZE).await.unwrap().is_first());
}

#[tokio::test]
async fn a_damaged_spool_is_refused_while_the_old_point_is_whole() {
    let volume = Volume::new().await;
    let (replica, a) = volume.with_a().await;
    pass(&replica, "b", 2 * MIB, 2).await.unwrap();
    drop(replica);
    settled(&volume.path()).await;
    let spool = fs::OpenOptions::new().write(true).open(volume.spool()).unwrap();
    let length = spool.metadata().unwrap().len();
    spool.write_all_at(b"?", length - SIZE + 2 * MIB + 70_000).unwrap();
    let replica = volume.open(Some(&a)).await.unwrap();
    let error = settle(&replica, &commit("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.context_value("next").unwrap().contains("still holds a"), "{error}");
    assert_eq!(error.context_value("offset"), Some((2 * MIB + 65_536).to_string().as_str()));
    assert_eq!((replica.holding(), volume.byte(2 * MIB)), (Holding::Point(point("a")), 0));
    assert_eq!(read(&replica, "b", 2 * MIB + 70_001).await.unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(settle(&replica, &Decision::Abandoned).await.unwrap(), Settled::Removed);
    pass(&replica, "c", 2 * MIB, 3).await.unwrap();
    // A record that is damaged is an error, not an empty volume.
    drop(replica);
    settled(&volume.path()).await;
    let record = fs::OpenOptions::new().write(true).open(volume.folder.path().join("volume.point")).unwrap();
    record.write_all_at(b"!", 30).unwrap();
    assert_eq!(volume.open(None).await.err().unwrap().kind(), ErrorKind::Mismatch);
}

#[tokio::test]
async fn a_pass_over_nbd_is_fenced_and_resumed_as_one_into_a_volume() {
    let volume = Volume::new().await;
    let (replica, _) = volume.with_a().await;
    let key = || EpochKey::new([7; 32]);
    let connect = |server: &Server, epoch, pass: &'static str| {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (server, name) = (server.clone(), key().name("volume", epoch, pass).unwrap());
        async move {
            let serving = tokio::spawn(async move { server.handle(split_any(theirs), "a client").await });
            let uri = Uri::tcp("localhost", 10809, name);
            let options = ConnectOptions { pass: Some(pass.to_owned()), want_ledger: true, ..ConnectOptions::new(uri) };
            (Client::over(split_any(ours), options).await, serving)
        }
    };
    let server = Server::new(ServerConfig::default());
    let pass = replica.begin(&point("b"), SIZE).await.unwrap();
    assert!(!pass.is_resumed() && !pass.is_first());
    server.add_fenced("volume", pass.export(), key()).unwrap();
    let (client, _serving) = connect(&server, 5, "job-1").await;
    let client = client.unwrap();
    client.write(MIB, Bytes::from(vec![8; MIB as usize]), Persist::Cached).await.unwrap();
    client.zero(ByteRange::new(2 * MIB, MIB).unwrap(), ZeroMode::default(), Persist::Cached).await.unwrap();
    client.flush().await.unwrap();
    // The mover dies, and so does the server.
    drop((client, server, pass));
    let server = Server::new(ServerConfig::default());
    let pass = replica.begin(&point("b"), SIZE).await.unwrap();
    assert!(pass.is_resumed() && pass.last_pass().as_deref() == Some("job-1"));
    server.add_fenced("volume", pass.export(), key()).unwrap();
    let (old, _serving) = connect(&server, 4, "job-0").await;
    assert_eq!(old.err().map(|e| e.kind()), Some(ErrorKind::Fenced));
    let (client, _serving) = connect(&server, 6, "job-1").await;
    let client = client.unwrap();
    let states = client.ledger(ByteRange::between(0, 4 * MIB)).await.unwrap();
    let proven: Vec<_> = states.iter().filter(|(_, flags)| flags & ledger_state::PROVEN != 0).map(|(range, _)| *range).collect();
    assert_eq!(proven, [ByteRange::between(MIB, 3 * MIB)], "{states:?}");
    assert_eq!(client.read(ByteRange::new(MIB, 1).unwrap()).await.unwrap()[0], 8);
    let digest = replica.reader(&point("a")).await.unwrap().read(ByteRange::new(MIB, 1).unwrap()).await.unwrap()[0];
    assert_eq!(digest, 1);
    let b = pass.complete().await.unwrap();
    assert_eq!(client.write(0, Bytes::from_static(b"late"), Persist::Cached).await.unwrap_err().kind(), ErrorKind::Denied, "by EPERM");
    drop((client, server));
    settle(&replica, &commit("b")).await.unwrap();
    replica.check(&b).await.unwrap();
    // The epoch outlives the spool.
    let pass = replica.begin(&point("c"), SIZE).await.unwrap();
    let server = Server::new(ServerConfig::default());
    server.add_fenced("volume", pass.export(), key()).unwrap();
    let (old, _serving) = connect(&server, 5, "job-1").await;
    assert_eq!(old.err().map(|e| e.kind()), Some(ErrorKind::Fenced));
}

/// A site whose spool lies where there is little room.
struct Cramped {
    site: FileSite,
    /// Writes of the spool that succeed.
    writes: usize,
}

struct FullAfter {
    disk: Arc<dyn BlockWrite>,
    left: std::sync::atomic::AtomicUsize,
}

impl BlockRead for FullAfter {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }
    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
        self.disk.read(range)
    }
}

impl BlockWrite for FullAfter {
    fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return self.disk.write(offset, data, persist);
        }
        Box::pin(async { Err(migratekit_core::Error::new(ErrorKind::NoSpace, "write", "no space left on the device")) })
    }
    fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.disk.zero(range, mode, persist)
    }
    fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
        self.disk.discard(range, persist)
    }
    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.disk.flush()
    }
}

impl ReplicaSite for Cramped {
    fn name(&self) -> String {
        self.site.name()
    }
    fn open_volume(&self) -> BoxFuture<'_, Result<SiteDisk>> {
        self.site.open_volume()
    }
    fn file(&self, which: SideFile) -> Arc<dyn RecordFile> {
        self.site.file(which)
    }
    fn create_spool(&self, size: u64) -> BoxFuture<'_, Result<SiteDisk>> {
        Box::pin(async move {
            let made = self.site.create_spool(size).await?;
            let disk = Arc::new(FullAfter { disk: made.disk, left: self.writes.into() });
            Ok(SiteDisk { disk, ..made })
        })
    }
    fn open_spool(&self) -> BoxFuture<'_, Result<Option<SiteDisk>>> {
        self.site.open_spool()
    }
    fn remove_spool(&self) -> BoxFuture<'_, Result<()>> {
        self.site.remove_spool()
    }
    fn free_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async { Ok(64 * MIB) })
    }
}

/// Who waits for a settling that takes long can tell it from one that hangs.
#[tokio::test]
async fn a_settling_tells_each_piece_that_passes() {
    let volume = Volume::new().await;
    let (replica, _) = volume.with_a().await;
    pass(&replica, "b", 0, 2).await.unwrap();
    let heard: Arc<Mutex<Vec<u64>>> = Arc::default();
    let ear = Arc::clone(&heard);
    let passed = Passed::to(move |bytes| ear.lock().unwrap().push(bytes));
    let settled = replica.settle_telling(&commit("b"), &passed, &CancellationToken::new()).await.unwrap();
    let heard = heard.lock().unwrap().clone();
    assert_eq!(settled, Settled::Applied);
    assert!(heard.iter().sum::<u64>() >= 2 * (MIB + 1) && heard.len() >= 4, "two areas, read and written: {heard:?}");
    assert!(heard.iter().all(|bytes| *bytes <= 4 * MIB), "{heard:?}");
}

#[tokio::test]
async fn without_room_nothing_begins_and_what_began_fails_and_leaves_the_point() {
    let volume = Volume::new().await;
    let (replica, a) = volume.with_a().await;
    drop(replica);
    settled(&volume.path()).await;
    // The header, two requests and the entries of a flush; then it is full.
    let site = Cramped { site: FileSite::beside(volume.path()).unwrap(), writes: 2 };
    let replica = Replica::open(Arc::new(site), Volume::options(Some(a.clone()))).await.unwrap();
    replica.check_room(MIB).await.unwrap();
    assert_eq!(replica.check_room(64 * MIB).await.unwrap_err().kind(), ErrorKind::NoSpace);
    let error = replica.begin(&point("b"), 64 * MIB).await.err().unwrap();
    let named = ["needs", "free", "at"].map(|key| error.context_value(key).is_some());
    assert_eq!((error.kind(), named), (ErrorKind::NoSpace, [true; 3]), "{error}");
    assert!(!volume.spool().exists() && replica.pending().is_none());
    let error = pass(&replica, "b", 0, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    replica.check(&a).await.unwrap();
    assert_eq!((read(&replica, "a", 0).await.unwrap(), volume.byte(0)), (0, 0));
    assert_eq!(replica.reader(&point("b")).await.err().unwrap().kind(), ErrorKind::Mismatch);
    // Room was made: the same pass goes on.
    let pass = replica.begin(&point("b"), MIB).await.unwrap();
    assert!(pass.is_resumed());
    pass.view("b").await.unwrap().write(0, Bytes::from_static(b"b"), Persist::Cached).await.unwrap();
    pass.complete().await.unwrap();
    settle(&replica, &commit("b")).await.unwrap();
    assert_eq!(volume.byte(0), b'b');
}
