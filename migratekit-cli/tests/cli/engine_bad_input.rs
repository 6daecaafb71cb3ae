//! Whatever may be wrong with a catalog, its key or its place: refused by a kind of its own, with the thing named, a text that no other cause
//! has, and the way out; and the way out works.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use migratekit_core::testing::mariadb::MariaDb;

use crate::engine_rig::{Home, shown, sqlite};
use crate::small_disk::SmallDisk;

const MIB: u64 = 1 << 20;
const CATALOG: &str = "migratekit/catalog.db";
const KEY: &str = "migratekit/key";

/// A home with a sealed secret.
fn with_secret() -> Home {
    let home = Home::new();
    let out = home.run_with_input(&["credential", "add", "vmware", "vc1", "--host", "vc", "--username", "u"], "hunter2-of-vc1\n");
    assert!(out.status.success(), "{}", shown(&out));
    home
}

/// The texts so far, each with its cause.
#[derive(Default)]
struct Texts(BTreeMap<&'static str, &'static str>);

impl Texts {
    /// `args` must be refused with this exit code and text, name `thing`, and say what to do `next`; no other cause has this text.
    #[track_caller]
    #[allow(clippy::too_many_arguments, reason = "a row of the table")]
    fn refused(&mut self, cause: &'static str, home: &Home, args: &[&str], code: i32, text: &'static str, thing: &str, next: &str) {
        let said = home.refuse(args, code, &["error: ", text, thing, " next: ", next]);
        assert!(!said.contains("hunter2"), "{cause}: no secret is shown: {said}");
        let (what, way_out) = said.split_once(" next: ").unwrap();
        assert!(!what.is_empty() && !way_out.contains("--resume"), "{cause}: {said}");
        for (other, earlier) in &self.0 {
            assert!(!said.contains(other), "{cause} and {earlier} share a text: {said}");
        }
        assert!(self.0.insert(text, cause).is_none(), "{cause}: the text is another's too");
    }
}

#[test]
fn each_cause_has_its_kind_its_text_and_its_way_out() {
    let mut texts = Texts::default();
    let list = &["credential", "list"];

    let home = with_secret();
    let (catalog, key) = (home.path(CATALOG), home.path(KEY));
    let (named, key_named) = (catalog.display().to_string(), key.display().to_string());
    let (sound, good_key) = (fs::read(&catalog).unwrap(), fs::read(&key).unwrap());
    let mend = |bytes: &[u8]| {
        for end in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{named}{end}"));
        }
        fs::write(&catalog, bytes).unwrap();
    };

    let mut damaged = sound.clone();
    damaged.iter_mut().skip(4096).for_each(|byte| *byte = 0xa5);
    mend(&damaged);
    texts.refused("damaged", &home, list, 16, "the catalog's file is damaged", &named, "restored from a backup");
    mend(&b"this is a text and no database at all. ".repeat(300));
    texts.refused("no database", &home, list, 16, "the file is no SQLite database", &named, "restored from a backup");
    mend(&[]);
    sqlite(&catalog, "CREATE TABLE things (a)");
    texts.refused("another program's", &home, list, 3, "holds tables of another program; name an empty one", &named, "correct the command");
    mend(&sound);
    sqlite(&catalog, "INSERT INTO schema_migrations VALUES ('29991231000000', 'from the future', 0)");
    texts.refused(
        "newer",
        &home,
        list,
        8,
        "a newer version of this program made the catalog's schema",
        "29991231000000",
        "use the version",
    );
    mend(&sound);
    sqlite(&catalog, "UPDATE store_facts SET value = 'elsewhere' WHERE name = 'home_host'");
    texts.refused("moved", &home, list, 7, "the file belongs to another host", &named, "`migratekit db adopt`");
    home.succeed(&["db", "adopt"]);
    home.succeed(list);
    // A host made from the same image: its boot came after one of ours, and before another one of ours.
    sqlite(&catalog, "UPDATE store_facts SET value = 'twin ' || value WHERE name = 'home_boots'");
    texts.refused("twins", &home, list, 7, "another host with the same machine id used the file", &named, "`migratekit db adopt`");
    home.succeed(&["db", "adopt"]);
    home.succeed(list);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    texts.refused("a key for all", &home, list, 7, "users other than its owner have rights on it", &key_named, "give the rights");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "no key\n").unwrap();
    let said = shown(&home.run(list));
    assert!(said.contains(&key_named) && said.contains(" next: ") && !home.run(list).status.success(), "a damaged key: {said}");
    fs::remove_file(&key).unwrap();
    texts.refused("no key", &home, list, 4, "the key file is gone", &key_named, "next: ");
    home.succeed(&["key", "generate"]);
    texts.refused("another key", &home, list, 20, "this is not the key", &named, "`migratekit key rotate --old-key-lost`");
    fs::write(&key, &good_key).unwrap();
    assert!(home.succeed(&["credential", "test", "vc1"]).contains("opens"));

    let nowhere = format!("sqlite://{}/none/catalog.db", home.dir.path().display());
    let at = ["credential", "list", "--store", &nowhere];
    texts.refused("no folder", &home, &at, 4, "the folder that is to hold the file does not exist", &nowhere, "check the name");
    let folder = format!("sqlite://{}", home.dir.path().display());
    texts.refused("a folder", &home, &["db", "status", "--store", &folder], 3, "it is no plain file", &folder, "correct the command");
}

#[test]
fn a_disk_that_is_full_or_read_only() {
    let mut texts = Texts::default();
    let mut home = Home::new();
    let small = home.path("migratekit");
    fs::create_dir(&small).unwrap();
    home.disk = Some(SmallDisk::at(&small, MIB));
    let disk = home.disk.as_ref().unwrap();
    let named = small.join("catalog.db").display().to_string();
    disk.resize(64 << 10);
    texts.refused("full", &home, &["db", "migrate"], 10, "the disk that holds the catalog is full", &named, "make room where it is named");
    // The way out: room is made, and the same command goes on.
    disk.resize(16 * MIB);
    home.succeed(&["db", "migrate"]);
    home.succeed(&["credential", "list"]);
    disk.read_only(true);
    texts.refused("read-only", &home, &["key", "rotate"], 9, "read-only", &named, "make writable what is named");
    disk.read_only(false);
    home.succeed(&["key", "rotate"]);
}

#[test]
fn a_server_that_does_not_serve() {
    let mut texts = Texts::default();
    let server = MariaDb::start();
    server.create_database("catalog");
    server.create_database("newer");
    server.sql("CREATE USER reader@'127.0.0.1'; GRANT SELECT ON catalog.* TO reader@'127.0.0.1'");
    server.sql("CREATE USER mk@'127.0.0.1' IDENTIFIED BY 'right'; GRANT ALL ON catalog.* TO mk@'127.0.0.1'");
    let home = Home::new();
    let as_user = |user: &str, database: &str| server.url(database).replace("root@", &format!("{user}@"));
    let (reader, mk, newer) = (as_user("reader", "catalog"), as_user("mk", "catalog"), server.url("newer"));
    let host = format!("127.0.0.1:{}", server.port());
    let status = |url: &str| home.run(&["db", "migrate", "--store", url]);
    texts.refused("no right", &home, &["db", "migrate", "--store", &reader], 7, "lacks a right that is needed", &host, "give the rights");
    let no_password = ["db", "migrate", "--store", &mk];
    texts.refused("not let in", &home, &no_password, 7, "does not let this user in", &host, "give the rights");
    assert!(status(&newer).status.success());
    server.sql("INSERT INTO newer.schema_migrations VALUES ('29991231000000', 'from the future', 1)");
    let at = ["db", "status", "--store", &newer];
    texts.refused("newer", &home, &at, 8, "a newer version of this program made the catalog's schema", "29991231000000", "use the version");
    let none = server.url("none");
    texts.refused(
        "no database",
        &home,
        &["db", "migrate", "--store", &none],
        4,
        "the server has no such database",
        "none",
        "check the name",
    );
    let mut server = server;
    server.kill();
    let gone = server.url("catalog");
    texts.refused("dead", &home, &["db", "status", "--store", &gone], 11, "nobody listens", &host, "check that it runs");
    server.restart();
    assert!(home.run(&["db", "migrate", "--store", &gone]).status.success(), "the way out works");
}
