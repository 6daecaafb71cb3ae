//! Catalogs that cannot be used: each is refused with its own kind and text, and is not changed by that.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migratekit_core::id::RunnerId;
use migratekit_core::store::NewRunner;
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::testing::peer::free_port;
use migratekit_core::{ErrorKind, Result, Store, StoreOptions};

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

fn open(url: &str, options: StoreOptions) -> Result<Store> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(Store::open(url, options))
}

fn here() -> StoreOptions {
    StoreOptions::new().host_identity("host a")
}

/// A sound catalog with one fact, closed.
fn sound(folder: &Path) -> PathBuf {
    let path = folder.join("catalog.db");
    runtime().block_on(async {
        let store = Store::open(&url(&path), here()).await.unwrap();
        store.write("test", |tx| async move { tx.facts().set("a", "1").await }).await.unwrap();
        store.close().await;
    });
    path
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn sqlite(path: &Path, sql: &str) {
    let done = std::process::Command::new(migratekit_core::testing::peer::program("sqlite3")).arg(path).arg(sql).status().unwrap();
    assert!(done.success(), "{sql}");
}

/// Checks kind and text of a refusal, and that no text comes twice.
struct Texts(BTreeMap<String, &'static str>);

impl Texts {
    #[track_caller]
    fn refused(&mut self, name: &'static str, kind: ErrorKind, part: &str, result: Result<Store>) {
        let error = result.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.message().contains(part), "{name}: {error}");
        let other = self.0.insert(error.message().to_owned(), name);
        assert!(other.is_none(), "{name} and {other:?} share a text: {error}");
    }
}

#[test]
fn files_that_cannot_be_used() {
    let mut texts = Texts(BTreeMap::new());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    texts.refused("no folder", ErrorKind::NotFound, "folder", open(&url(&at("none/catalog.db")), here()));
    texts.refused("a folder", ErrorKind::InvalidInput, "plain file", open(&url(folder.path()), here()));
    texts.refused("no file", ErrorKind::NotFound, "does not exist", open(&url(&at("none.db")), here().create(false)));
    assert!(!at("none.db").exists());
    fs::write(at("text.db"), "this is no database, whatever its name says. ".repeat(100)).unwrap();
    texts.refused("a text", ErrorKind::Mismatch, "no SQLite database", open(&url(&at("text.db")), here()));
    sqlite(&at("other.db"), "CREATE TABLE things (a)");
    texts.refused("another program's", ErrorKind::InvalidInput, "another program", open(&url(&at("other.db")), here()));

    let path = sound(folder.path());
    let sane = fs::read(&path).unwrap();
    texts.refused("another host's", ErrorKind::Denied, "another host", open(&url(&path), StoreOptions::new().host_identity("host b")));
    open(&url(&path), here()).unwrap();
    sqlite(&path, "INSERT INTO schema_migrations VALUES ('29991231000000', 'from the future', 1)");
    for options in [here(), here().migrate(false)] {
        let error = open(&url(&path), options).unwrap_err();
        assert_eq!((error.kind(), error.context_value("schema")), (ErrorKind::Unsupported, Some("29991231000000")), "{error}");
        assert!(error.message().contains("newer version"), "{error}");
    }
    fs::write(&path, &sane).unwrap();
    let mut damaged = sane.clone();
    for byte in damaged.iter_mut().skip(4096) {
        *byte = 0xa5;
    }
    fs::write(&path, &damaged).unwrap();
    texts.refused("damaged", ErrorKind::Mismatch, "damaged", open(&url(&path), here()));
    fs::write(&path, &sane).unwrap();
    open(&url(&path), StoreOptions::new().host_identity("host b").adopt(true)).unwrap();
    open(&url(&path), StoreOptions::new().host_identity("host b")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "others cannot read it");
}

/// Hosts that call themselves the same: what one writes down, another finds.
#[test]
fn two_hosts_made_from_one_image_are_told_apart_by_their_boots() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let rt = &runtime();
    let moment = Duration::from_millis(50);
    let at = |boot: &str| here().boot_identity(boot, moment);
    let fact = |name: &'static str| {
        rt.block_on(async {
            let store = Store::open(&url(&path), at("third")).await.unwrap();
            let value = store.read("test", |tx| async move { tx.facts().get(name).await }).await.unwrap();
            store.close().await;
            value
        })
    };
    // One host, started anew twice: nothing is in the way.
    for boot in ["first", "first", "second", "third", "third"] {
        open(&url(&path), at(boot)).unwrap();
    }
    assert_eq!(fact("home_boots").as_deref(), Some("third second first"));
    // A boot that came back after another one is no boot of the same host.
    let mut texts = Texts(BTreeMap::new());
    texts.refused("shared", ErrorKind::Denied, "another host with the same machine id used the file", open(&url(&path), at("second")));
    texts.refused("another host's", ErrorKind::Denied, "belongs to another host", open(&url(&path), at("third").host_identity("host b")));
    // By request it moves, and the one that had it is the other one from now on.
    open(&url(&path), at("second").adopt(true)).unwrap();
    assert_eq!(open(&url(&path), at("third")).unwrap_err().kind(), ErrorKind::Denied);
    open(&url(&path), at("third").adopt(true)).unwrap();

    // A runner of an unknown boot works on it: its heartbeats are seen. What stands still is over.
    let id = &RunnerId::generate();
    let runner = rt.block_on(async {
        let store = Store::open(&url(&path), at("third")).await.unwrap();
        store.write("test", |tx| async move { tx.runners().insert(&NewRunner { id, host: "twin", pid: 1 }).await }).await.unwrap();
        store
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            rt.block_on(async {
                while !stop.load(Ordering::SeqCst) {
                    runner.write("test", |tx| async move { tx.runners().beat(id).await }).await.unwrap();
                }
            });
        });
        // Watched until it is seen, however slow this machine is.
        let watch = here().boot_identity("twin", Duration::from_secs(60));
        texts.refused("works there", ErrorKind::Busy, "works on the file at this moment", open(&url(&path), watch));
        stop.store(true, Ordering::SeqCst);
    });
    rt.block_on(runner.close());
    open(&url(&path), at("fourth")).unwrap();
    let store = rt.block_on(Store::open(&url(&path), at("fourth"))).unwrap();
    let left = rt.block_on(store.read("test", |tx| async move { tx.runners().running().await })).unwrap();
    assert!(left.is_empty(), "what stood still is written down as ended: {left:?}");
}

#[test]
fn a_full_disk_is_said_and_undoes_the_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = sound(folder.path());
    runtime().block_on(async {
        let store = Store::open(&url(&path), here()).await.unwrap();
        // As full as a disk gets without one: the file may not grow.
        migratekit_core::testing::catalog::limit_pages(&store, 1).await;
        let big = &"x".repeat(4 << 20).chars().take(4_000_000).collect::<String>();
        let full = store
            .write("test", |tx| async move {
                tx.facts().set("b", "1").await?;
                tx.facts().set("c", big).await
            })
            .await
            .unwrap_err();
        assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
        let (a, b) = store.read("test", |tx| async move { Ok((tx.facts().get("a").await?, tx.facts().get("b").await?)) }).await.unwrap();
        assert_eq!((a.as_deref(), b), (Some("1"), None));
        store.close().await;
    });
}

#[test]
fn servers_that_cannot_be_used() {
    let mut texts = Texts(BTreeMap::new());
    let server = MariaDb::start();
    server.create_database("other");
    server.sql("CREATE TABLE other.things (a INT)");
    server.create_database("empty");
    server.create_database("newer");
    server.sql("CREATE USER poor@localhost; CREATE USER poor@'127.0.0.1'; GRANT SELECT ON empty.* TO poor@'127.0.0.1'; GRANT SELECT ON empty.* TO poor@localhost");
    server.sql("CREATE USER guarded@'127.0.0.1' IDENTIFIED BY 'right'; GRANT ALL ON empty.* TO guarded@'127.0.0.1'");
    open(&server.url("newer"), StoreOptions::new()).unwrap();
    server.sql("INSERT INTO newer.schema_migrations VALUES ('29991231000000', 'from the future', 1)");
    let as_user = |user: &str, database: &str| server.url(database).replace("root@", &format!("{user}@"));
    texts.refused("no database", ErrorKind::NotFound, "no such database", open(&server.url("none"), StoreOptions::new()));
    texts.refused("another program's", ErrorKind::InvalidInput, "another program", open(&server.url("other"), StoreOptions::new()));
    texts.refused("a newer schema", ErrorKind::Unsupported, "newer version", open(&server.url("newer"), StoreOptions::new()));
    texts.refused("no right to make tables", ErrorKind::Denied, "lacks a right", open(&as_user("poor", "empty"), StoreOptions::new()));
    texts.refused("no password", ErrorKind::Denied, "let this user in", open(&as_user("guarded", "empty"), StoreOptions::new()));
    let nobody = format!("mysql://root@127.0.0.1:{}/x", free_port());
    texts.refused("nobody there", ErrorKind::Unreachable, "nobody listens", open(&nobody, StoreOptions::new()));

    // The password comes from a file that only its owner can read.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "right\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let with_file = || StoreOptions::new().password_file(&file);
    texts.refused("a file that others can read", ErrorKind::Denied, "mode 0600", open(&as_user("guarded", "empty"), with_file()));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    open(&as_user("guarded", "empty"), with_file()).unwrap();
    fs::write(&file, "\n").unwrap();
    texts.refused("an empty file", ErrorKind::InvalidInput, "empty", open(&as_user("guarded", "empty"), with_file()));
}

/// Whatever the server's defaults: our sessions set their own.
#[test]
fn a_lax_server_is_strict_for_us() {
    let server = MariaDb::start_with(&[
        "--sql-mode=",
        "--default-time-zone=+05:00",
        "--character-set-server=latin1",
        "--transaction-isolation=READ-UNCOMMITTED",
    ]);
    server.sql("CREATE DATABASE lax CHARACTER SET latin1");
    runtime().block_on(async {
        let store = Store::open(&server.url("lax"), StoreOptions::new()).await.unwrap();
        let long = &"n".repeat(65);
        let refused = store.write("test", |tx| async move { tx.facts().set(long, "1").await }).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        store.write("test", |tx| async move { tx.facts().set("a", "ß𝄞").await }).await.unwrap();
        let (text, now) = store.read("test", |tx| async move { Ok((tx.facts().get("a").await?, tx.now().await?)) }).await.unwrap();
        assert_eq!(text.as_deref(), Some("ß𝄞"));
        assert!(now.since(migratekit_core::clock::Timestamp::now()).as_secs() < 600);
        store.close().await;
    });
}
