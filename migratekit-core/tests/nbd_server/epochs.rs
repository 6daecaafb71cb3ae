//! One writer: a higher epoch takes over, and no byte of a lower one lands after it was answered.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use migratekit_core::block::{BlockRead, BlockWrite, BoxFuture, MemoryDisk};
use migratekit_core::nbd::export::Export;
use migratekit_core::nbd::wire::{DIGEST_NAME_PREFIX, command, option, option_reply};
use migratekit_core::nbd::{Client, ConnectOptions, EpochKey, ServerConfig, Uri};
use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::Peer;
use migratekit_core::{Error, ErrorKind, Result};

use crate::raw::{Raw, Said};
use crate::rig::{Gated, Rig, Shared, wait_for};

const SIZE: u64 = 1 << 20;

fn key() -> EpochKey {
    EpochKey::new([42; 32])
}

fn name(epoch: u64) -> String {
    key().name("vol", epoch, "job").unwrap()
}

/// An export that keeps its epoch, and notes the order of things.
struct Fenced {
    disk: Arc<dyn BlockWrite>,
    highest: AtomicU64,
    broken: AtomicBool,
    passes: Mutex<Vec<Option<String>>>,
}

impl Fenced {
    fn new(disk: impl BlockWrite + 'static) -> Arc<Self> {
        let (highest, broken) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Fenced { disk: Arc::new(disk), highest, broken, passes: Mutex::default() })
    }
}

impl Export for Fenced {
    fn disk(&self) -> Arc<dyn BlockWrite> {
        Arc::clone(&self.disk)
    }

    fn open(&self, pass: Option<&str>) -> BoxFuture<'_, Result<Arc<dyn BlockWrite>>> {
        self.passes.lock().unwrap().push(pass.map(str::to_owned));
        let disk = self.disk();
        Box::pin(async move { Ok(disk) })
    }

    fn has_ledger(&self) -> bool {
        true
    }

    fn last_pass(&self) -> Option<String> {
        Some("pass-1".into())
    }

    fn digests(&self, block_size: u32) -> Option<Arc<dyn BlockRead>> {
        (block_size == 4096).then(|| Arc::new(MemoryDisk::new("digests", SIZE / 4096 * 32)) as Arc<dyn BlockRead>)
    }

    fn highest_epoch(&self) -> u64 {
        self.highest.load(Ordering::SeqCst)
    }

    fn raise_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.broken.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Io, "record the epoch", "the disk is broken").with("path", "/srv/private"));
            }
            self.highest.store(epoch, Ordering::SeqCst);
            Ok(())
        })
    }
}

fn rig(disk: impl BlockWrite + 'static) -> (Rig, Arc<Fenced>) {
    let rig = Rig::new(ServerConfig::default());
    let export = Fenced::new(disk);
    rig.server.add_fenced("vol", export.clone(), key()).unwrap();
    (rig, export)
}

fn refused(rig: &Rig, name: &str) -> (u32, String) {
    Raw::options(rig.port).info(option::GO, name, &[3]).unwrap_err()
}

#[test]
fn only_a_proven_and_current_epoch_is_admitted() {
    let (rig, export) = rig(MemoryDisk::new("m", SIZE));
    for wrong in ["vol".to_owned(), EpochKey::new([1; 32]).name("vol", 9, "job").unwrap(), name(3).replace("/3/", "/4/")] {
        assert_eq!(refused(&rig, &wrong).0, option_reply::ERR_POLICY, "{wrong}");
    }
    assert_eq!(refused(&rig, &key().name("other", 1, "job").unwrap()).0, option_reply::ERR_UNKNOWN);
    assert_eq!(export.highest_epoch(), 0);

    let mut third = Raw::simple(rig.port, &name(3));
    assert_eq!(export.highest_epoch(), 3);
    let (code, text) = refused(&rig, &name(2));
    assert_eq!(code, option_reply::ERR_POLICY);
    assert!(text.starts_with("fenced:"), "{text}");
    // Several connections of one epoch are one writer.
    let mut again = Raw::simple(rig.port, &name(3));
    // Asking about a higher one does not begin it.
    assert!(Raw::options(rig.port).info(option::INFO, &name(4), &[]).is_ok());
    assert_eq!((third.read(0, 1), again.read(0, 1)), (vec![0], vec![0]));
    // A connection that only asked may still be listed.
    assert!(rig.connections().iter().any(|c| c.claim == Some((3, "job".into()))));

    Raw::simple(rig.port, &name(4));
    assert!(third.is_closed() && again.is_closed());
    let (code, text) = Raw::options(rig.port).info(option::INFO, &name(3), &[]).unwrap_err();
    assert!(code == option_reply::ERR_POLICY && text.starts_with("fenced:"), "{text}");
}

#[test]
fn what_a_client_tells_of_the_export_has_no_proof() {
    let (rig, _) = rig(MemoryDisk::new("m", SIZE));
    let uri = Uri::tcp("127.0.0.1", rig.port, name(1));
    let proof = uri.export.rsplit('/').next().unwrap();
    let said = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = Client::connect(ConnectOptions::glance(uri.clone())).await.unwrap();
        let said = format!("{} {} {uri} {uri:?}", serde_json::to_string(client.facts()).unwrap(), client.offer().name);
        client.close().await.unwrap();
        said
    });
    assert!(said.contains("vol/1/job/..") && !said.contains(proof), "{said}");
}

#[test]
fn an_epoch_that_cannot_be_recorded_is_not_admitted() {
    let (rig, export) = rig(MemoryDisk::new("m", SIZE));
    let mut first = Raw::simple(rig.port, &name(1));
    export.broken.store(true, Ordering::SeqCst);
    assert_eq!(refused(&rig, &name(2)), (option_reply::ERR_PLATFORM, "the disk is broken".to_owned()), "no path of this host is told");
    assert_eq!(first.read(0, 1), [0], "the old one goes on");
    export.broken.store(false, Ordering::SeqCst);
    Raw::simple(rig.port, &name(2));
    assert!(first.is_closed());
}

#[test]
fn the_pass_is_the_selected_one_or_the_job() {
    let (rig, export) = rig(MemoryDisk::new("m", SIZE));
    Raw::simple(rig.port, &name(1));
    Raw::structured(rig.port, &name(1), &["migratekit:pass:mine"]);
    assert_eq!(*export.passes.lock().unwrap(), [Some("job".to_owned()), Some("mine".to_owned())]);
    let mut raw = Raw::options(rig.port);
    raw.option(option::STRUCTURED_REPLY, b"");
    let shown: Vec<String> = raw.meta(option::LIST_META_CONTEXT, &name(1), &["migratekit:"]).into_iter().map(|(_, n)| n).collect();
    assert_eq!(shown, ["migratekit:ledger", "migratekit:pass:pass-1"]);
    // Status comes for each selected context.
    let mut raw = Raw::structured(rig.port, &name(1), &["migratekit:pass:x", "base:allocation", "migratekit:ledger"]);
    let Said::Chunks(chunks) = raw.ask(command::BLOCK_STATUS, 0, 0, 8192) else { panic!("a simple reply to BLOCK_STATUS") };
    let ids: Vec<u8> = chunks.iter().map(|(_, payload)| payload[3]).collect();
    assert_eq!(ids, [3, 1, 2]);
}

#[test]
fn digests_are_a_read_only_disk_that_begins_no_epoch() {
    let (rig, export) = rig(MemoryDisk::new("m", SIZE));
    let mut writer = Raw::simple(rig.port, &name(1));
    let mut digests = Raw::simple(rig.port, &format!("{DIGEST_NAME_PREFIX}4096:{}", name(2)));
    assert_eq!(digests.read(0, 32), [0; 32]);
    assert_eq!(digests.ask(command::TRIM, 0, 0, 32), Said::Simple(1));
    assert_eq!((export.highest_epoch(), writer.read(0, 1)), (1, vec![0]));
    assert_eq!(refused(&rig, &format!("{DIGEST_NAME_PREFIX}512:{}", name(1))).0, option_reply::ERR_UNKNOWN);
    assert_eq!(refused(&rig, &format!("{DIGEST_NAME_PREFIX}4096:vol")).0, option_reply::ERR_POLICY);
}

#[test]
fn the_newcomer_is_answered_after_the_last_old_write() {
    let gate = Gated::new(SIZE, false, false);
    let (rig, _) = rig(Shared(Arc::clone(&gate)));
    let mut old = Raw::simple(rig.port, &name(1));
    old.write(1, 0, &[1; 4096]);
    wait_for("the old write to be under way", || gate.waiting() == 1);
    let port = rig.port;
    let newcomer = std::thread::spawn(move || Raw::simple(port, &name(2)));
    wait_for("the newcomer to be bound", || rig.connections().iter().any(|c| c.claim == Some((2, "job".into()))));
    assert!(refused(&rig, &name(1)).1.starts_with("fenced:"), "nobody of the old epoch gets in meanwhile");
    assert!(!newcomer.is_finished());
    gate.set_open(true);
    let mut new = newcomer.join().unwrap();
    assert_eq!(gate.written.load(Ordering::SeqCst), 1);
    assert!(old.is_closed());
    new.write(1, 0, &[2; 4096]);
    assert_eq!(new.reply(), (1, Said::Simple(0)));
    assert_eq!(new.read(0, 4096), [2; 4096]);
}

/// One round: the writer of `epoch` is caught with writes on the disk, in the socket and half sent; the next epoch takes over,
/// writes everything, and finds nothing else.
fn round(rig: &Rig, gate: &Arc<Gated>, epoch: u64, rng: &mut Rng) {
    let (old_byte, new_byte) = ((epoch * 2 % 251) as u8, (epoch * 2 % 251 + 1) as u8);
    gate.set_open(rng.chance(30));
    let mut old = Raw::simple(rig.port, &name(epoch));
    for cookie in 0..rng.below(20) {
        let at = rng.below(SIZE / 65536) * 65536;
        old.write(cookie, at, &[old_byte; 65536]);
    }
    old.request(command::WRITE, 0, 99, 0, 65536);
    let half = rng.below(65536) as usize;
    old.send(&vec![old_byte; half]);

    // The old one is paused here. The new one comes; what is on the disk ends only after it came.
    let port = rig.port;
    let newcomer = std::thread::spawn(move || Raw::simple(port, &name(epoch + 1)));
    wait_for("the newcomer to be bound", || {
        newcomer.is_finished() || rig.connections().iter().any(|c| c.claim.as_ref().is_some_and(|(e, _)| *e == epoch + 1))
    });
    gate.set_open(true);
    let mut new = newcomer.join().unwrap();
    for piece in 0..SIZE / 65536 {
        new.write(piece, piece * 65536, &[new_byte; 65536]);
    }
    // The old one goes on: the rest of its payload, and more writes.
    use std::io::Write;
    let _ = old.stream.write_all(&vec![old_byte; 65536 - half]);
    for _ in 0..3 {
        let request = migratekit_core::nbd::wire::Request { flags: 0, command: command::WRITE, cookie: 5, offset: 0, length: 65536 };
        let _ = old.stream.write_all(&[&request.encode()[..], &vec![old_byte; 65536]].concat());
    }
    for _ in 0..SIZE / 65536 {
        assert_eq!(new.reply().1, Said::Simple(0));
    }
    assert!(old.is_closed());
    assert!(new.read(0, SIZE as u32).iter().all(|b| *b == new_byte), "an old byte landed in epoch {epoch}");
    new.request(command::DISC, 0, 0, 0, 0);
}

#[test]
fn a_hundred_takeovers_and_not_one_old_byte() {
    let seed = 20_261_121;
    let mut rng = Rng::new(seed);
    println!("seed {seed}");
    let gate = Gated::new(SIZE, true, false);
    let (rig, export) = rig(Shared(Arc::clone(&gate)));
    for n in 0..100 {
        round(&rig, &gate, n * 2 + 1, &mut rng);
    }
    assert_eq!(export.highest_epoch(), 200);
}

#[test]
fn a_stopped_process_comes_back_too_late() {
    let (rig, _) = rig(MemoryDisk::new("m", SIZE));
    for round in 0..5u64 {
        let uri = rig.uri(&name(round * 2 + 1));
        let script = format!(
            "import nbd\nh = nbd.NBD()\nh.connect_uri('{uri}')\nb = bytearray(b'\\xee' * 65536)\n\
             while True:\n    for at in range(0, {SIZE}, 65536):\n        h.pwrite(b, at)\n"
        );
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "/usr/bin/python3", "-c", &script]).stderr(Stdio::null());
        let old = Peer::spawn("python3", command);
        let writes = || rig.connections().iter().map(|c| c.bytes_written).max().unwrap_or(0);
        wait_for("the old process to write", || writes() > SIZE);
        old.signal(rustix::process::Signal::STOP);
        let mut new = Raw::simple(rig.port, &name(round * 2 + 2));
        for piece in 0..SIZE / 65536 {
            new.write(piece, piece * 65536, &[round as u8; 65536]);
            assert_eq!(new.reply().1, Said::Simple(0));
        }
        old.signal(rustix::process::Signal::CONT);
        assert_ne!(old.wait(), Some(0), "the old one learns that it lost");
        assert!(new.read(0, SIZE as u32).iter().all(|b| *b == round as u8));
    }
}
