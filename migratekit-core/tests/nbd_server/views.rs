//! Not all clients see the same: what a view does not show does not exist, by whatever way one asks.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use migratekit_core::block::{BoxFuture, MemoryDisk};
use migratekit_core::nbd::handshake::{InfoRequest, MetaQuery};
use migratekit_core::nbd::server::{View, Visitor};
use migratekit_core::nbd::wire::{DIGEST_NAME_PREFIX, option, option_reply};
use migratekit_core::nbd::{EpochKey, ServerConfig};
use migratekit_core::task::CancellationToken;
use migratekit_core::{Error, ErrorKind, Result};

use crate::raw::Raw;
use crate::rig::{Gated, Rig, Shared, plain, wait_for};

/// What a test shows to one client: names, and jobs (`name/job`).
#[derive(Default)]
struct Shown {
    names: Mutex<BTreeSet<String>>,
    foreign: Mutex<Vec<String>>,
    broken: Mutex<bool>,
}

impl Shown {
    fn of(names: &[&str]) -> Arc<Self> {
        let shown = Shown::default();
        shown.names.lock().unwrap().extend(names.iter().map(|n| (*n).to_owned()));
        Arc::new(shown)
    }

    fn take_away(&self, name: &str) {
        assert!(self.names.lock().unwrap().remove(name));
    }
}

impl View for Shown {
    fn shows<'a>(&'a self, export: &'a str, job: Option<&'a str>) -> BoxFuture<'a, Result<bool>> {
        let wanted = job.map_or_else(|| export.to_owned(), |job| format!("{export}/{job}"));
        let told = if *self.broken.lock().unwrap() {
            Err(Error::new(ErrorKind::Unreachable, "ask whose it is", "the catalog is down, says the test").with("path", "/srv/private"))
        } else {
            Ok(self.names.lock().unwrap().contains(&wanted))
        };
        Box::pin(std::future::ready(told))
    }

    fn foreign(&self, export: &str) {
        self.foreign.lock().unwrap().push(export.to_owned());
    }
}

/// A port at which everybody is a client that sees `view`, until `gone`.
fn port_of(rig: &Rig, view: &Arc<Shown>, gone: &CancellationToken) -> u16 {
    let listener = rig.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (server, view, gone) = (rig.server.clone(), Arc::clone(view), gone.clone());
    rig.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let visitor = Visitor::from("a VMA").seeing(Arc::clone(&view) as Arc<dyn View>).until(gone.clone());
            let server = server.clone();
            tokio::spawn(async move { server.handle(Box::new(stream), visitor).await });
        }
    });
    port
}

fn key() -> EpochKey {
    EpochKey::new([7; 32])
}

/// A server with `mine`, `theirs` and the fenced `vol`.
fn served() -> Rig {
    let rig = Rig::new(ServerConfig::default());
    for name in ["mine", "theirs"] {
        rig.add(name, MemoryDisk::new(name, 1 << 20));
    }
    rig.server.add_fenced("vol", plain(MemoryDisk::new("vol", 1 << 20)), key()).unwrap();
    rig
}

fn listed(port: u16) -> Vec<String> {
    let mut replies = Raw::options(port).option(option::LIST, b"");
    assert_eq!(replies.pop().unwrap().0, option_reply::ACK);
    replies.into_iter().map(|(_, data)| String::from_utf8(data[4..].to_vec()).unwrap()).collect()
}

#[test]
fn a_foreign_export_is_answered_as_one_that_does_not_exist() {
    let rig = served();
    let view = Shown::of(&["mine", "vol", "vol/job-1"]);
    let port = port_of(&rig, &view, &CancellationToken::new());
    assert_eq!(listed(port), ["mine", "vol"]);
    assert_eq!(listed(rig.port), ["mine", "theirs", "vol"], "who has no view sees all");
    Raw::simple(port, "mine");
    Raw::simple(port, &key().name("vol", 1, "job-1").unwrap());
    assert!(view.foreign.lock().unwrap().is_empty());

    // By every way to name one: the same bytes as for a name that nobody has.
    let proven = |job| key().name("vol", 2, job).unwrap();
    for name in
        ["theirs", &format!("{DIGEST_NAME_PREFIX}4096:theirs"), &proven("job-2"), &format!("{DIGEST_NAME_PREFIX}4096:{}", proven("job-2"))]
    {
        let nobodys = name.replace("theirs", "nobody").replace("vol", "nob");
        for code in [option::INFO, option::GO, option::LIST_META_CONTEXT, option::SET_META_CONTEXT] {
            let mut answers = [name, &nobodys].into_iter().map(|name| {
                let mut raw = Raw::options(port);
                raw.option(option::STRUCTURED_REPLY, b"");
                let data = match code {
                    option::INFO | option::GO => InfoRequest { name: name.to_owned(), requests: vec![3] }.encode(),
                    _ => MetaQuery { export: name.to_owned(), queries: vec!["base:allocation".to_owned()] }.encode(),
                };
                raw.option(code, &data)
            });
            let (foreign, unknown) = (answers.next().unwrap(), answers.next().unwrap());
            assert_eq!(foreign, unknown, "{name} by option {code}");
            assert_eq!(foreign.last().unwrap().0, option_reply::ERR_UNKNOWN, "{name} by option {code}");
        }
    }
    let mut by_name = Raw::options(port);
    by_name.send(&migratekit_core::nbd::wire::encode_option(option::EXPORT_NAME, b"theirs"));
    assert!(by_name.is_closed());
    let foreign = std::mem::take(&mut *view.foreign.lock().unwrap());
    assert_eq!(foreign.iter().filter(|n| *n == "theirs").count(), 9, "each was told: {foreign:?}");
    assert_eq!(foreign.len(), 17, "and a name that nobody has was not: {foreign:?}");
}

#[test]
fn where_it_cannot_be_told_nothing_new_is_opened_and_what_is_open_stays() {
    let rig = served();
    let view = Shown::of(&["mine"]);
    let port = port_of(&rig, &view, &CancellationToken::new());
    let mut open = Raw::simple(port, "mine");
    *view.broken.lock().unwrap() = true;
    for name in ["mine", "theirs", "nobody"] {
        let refused = Raw::options(port).info(option::GO, name, &[3]).unwrap_err();
        assert_eq!(refused, (option_reply::ERR_PLATFORM, "the catalog is down, says the test".to_owned()), "{name}");
    }
    assert!(listed(port).is_empty());
    rig.runtime.block_on(rig.server.review());
    assert_eq!(open.read(0, 1), [0]);
}

#[test]
fn an_assignment_that_ends_closes_its_users_after_their_last_write() {
    let rig = Rig::new(ServerConfig::default());
    let gate = Gated::new(1 << 20, false, false);
    rig.add("mine", Shared(Arc::clone(&gate)));
    rig.add("other", MemoryDisk::new("other", 1 << 20));
    let view = Shown::of(&["mine", "other"]);
    let port = port_of(&rig, &view, &CancellationToken::new());
    let (mut writer, mut stays) = (Raw::simple(port, "mine"), Raw::simple(port, "other"));
    writer.write(1, 0, &[1; 4096]);
    wait_for("the write to be under way", || gate.waiting() == 1);
    view.take_away("mine");
    let server = rig.server.clone();
    let review = rig.runtime.spawn(async move { server.review().await });
    assert_eq!(Raw::options(port).info(option::GO, "mine", &[3]).unwrap_err().0, option_reply::ERR_UNKNOWN);
    gate.set_open(true);
    rig.runtime.block_on(review).unwrap();
    assert_eq!(gate.written.load(Ordering::SeqCst), 1, "it returned after the last write");
    assert!(writer.is_closed());
    assert_eq!(stays.read(0, 1), [0]);
}

#[test]
fn a_client_that_is_gone_is_closed_and_its_handler_ends_after_its_last_write() {
    let rig = Rig::new(ServerConfig::default());
    let gate = Gated::new(1 << 20, false, false);
    rig.add("mine", Shared(Arc::clone(&gate)));
    let gone = CancellationToken::new();
    let port = port_of(&rig, &Shown::of(&["mine"]), &gone);
    let mut writer = Raw::simple(port, "mine");
    writer.write(1, 0, &[1; 4096]);
    wait_for("the write to be under way", || gate.waiting() == 1);
    // What arrives behind it is not begun any more.
    gone.cancel();
    writer.write(2, 0, &[2; 4096]);
    assert_eq!(rig.connections().len(), 1, "its write is not over");
    gate.set_open(true);
    wait_for("the end of the connection", || rig.connections().is_empty());
    assert!(writer.is_closed());
    assert_eq!(gate.written.load(Ordering::SeqCst), 1);
}
