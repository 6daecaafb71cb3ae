//! A catalog written to a file and taken up elsewhere: on SQLite, on MariaDB, in whole and in part; and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use migratekit_core::testing::mariadb::MariaDb;
use serde_json::Value;

use crate::engine_rig::{Home, shown, sqlite};
use crate::run::assert_equal;
use crate::small_disk::SmallDisk;

const MIB: u64 = 1 << 20;
const PASSWORD: &str = "hunter2-of-the-vcenter";

/// A home with a VM that was replicated, and a vCenter's password.
fn lived_in() -> Home {
    let home = Home::new();
    home.make_machine("web-01", &[4 * MIB, MIB], 11);
    home.manage_all();
    let out = home.run_with_input(&["credential", "add", "vmware", "vc1", "--host", "vc", "--username", "u"], &format!("{PASSWORD}\n"));
    assert!(out.status.success(), "{}", shown(&out));
    home.succeed(&["replicate", "web-01"]);
    home
}

/// A home of the same site, with nothing but the key of `other`.
fn next_home(other: &Home) -> Home {
    let home = Home::new();
    fs::create_dir(home.path("migratekit")).unwrap();
    fs::copy(other.path("migratekit/key"), home.path("migratekit/key")).unwrap();
    home
}

fn rows(report: &Value, table: &str) -> Option<u64> {
    let line = report["tables"].as_array().unwrap().iter().find(|line| line["table"] == table)?;
    line["rows"].as_u64()
}

/// Everything people see of a catalog's VMs, credentials and jobs.
fn told(home: &Home, place: &[&str]) -> Vec<Value> {
    let verbs: [&[&str]; 5] =
        [&["vm", "list"], &["vm", "show", "web-01"], &["credential", "list"], &["job", "list"], &["replicate", "list"]];
    verbs.iter().map(|verb| home.json(&[verb, place].concat())).collect()
}

#[test]
fn a_catalog_goes_on_in_another_file_and_on_mariadb() {
    let home = lived_in();
    let (file, back) = (home.path("a b.json"), home.path("back"));
    let (file, back) = (file.to_str().unwrap(), back.to_str().unwrap());
    let written = home.json(&["db", "export", file]);
    assert!(rows(&written, "vm_disks") == Some(2) && written["content"] == "data", "{written}");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("mk1:") && !text.contains(PASSWORD), "the secret is there, and sealed");
    let before = told(&home, &[]);

    let next = next_home(&home);
    let read = next.json(&["db", "import", file]);
    assert_eq!((&read["rows"], &read["blake3"], &read["key"]["health"]), (&written["rows"], &written["blake3"], &"good".into()), "{read}");
    assert_eq!(told(&next, &[]), before);
    assert!(next.succeed(&["credential", "test", "vc1"]).contains("the saved password opens"));
    // It is a catalog like any other: the next pass goes on from the last point.
    let pass = next.json(&["replicate", "web-01", "--incremental"]);
    assert_eq!(pass["status"], "completed", "{pass}");
    // The one that was left behind is not: its volumes hold a point that it does not know.
    home.refuse(&["replicate", "web-01"], 16, &["error: ", " next: "]);

    let (before, file) = (told(&next, &[]), next.path("next"));
    let file = file.to_str().unwrap();
    let written = next.json(&["db", "export", file]);
    let server = MariaDb::start();
    server.create_database("moved");
    let (url, third) = (server.url("moved"), next_home(&home));
    let store = ["--store", url.as_str()];
    let read = third.json(&[&["db", "import", file], &store[..]].concat());
    assert_eq!((&read["rows"], &read["blake3"]), (&written["rows"], &written["blake3"]), "{read}");
    assert_eq!(told(&third, &store), before);
    assert!(third.succeed(&[&["credential", "test", "vc1"], &store[..]].concat()).contains("the saved password opens"));
    let again = third.json(&[&["db", "export", back], &store[..]].concat());
    assert_eq!((&again["rows"], &again["tables"]), (&written["rows"], &written["tables"]));
    let pass = third.run(&[&["replicate", "web-01", "--full"], &store[..]].concat());
    assert!(pass.status.success() && !shown(&pass).contains("WARN"), "{}", shown(&pass));
    for (number, replica) in home.replicas("web-01").iter().enumerate() {
        assert_equal(&home.machine("web-01").join(format!("{number}.img")), replica, "after the moves");
    }
}

#[test]
fn a_part_of_a_catalog() {
    let home = lived_in();
    let (part, schema) = (home.path("part"), home.path("schema"));
    let (part, schema) = (part.to_str().unwrap(), schema.to_str().unwrap());
    let written = home.json(&["db", "export", part, "--only", "configuration"]);
    assert_eq!((rows(&written, "vmware_credentials"), rows(&written, "vm_disks")), (Some(1), None), "{written}");
    let text = fs::read_to_string(part).unwrap();
    assert!(text.contains("vc1") && !text.contains("web-01") && !text.contains(PASSWORD));
    let next = next_home(&home);
    next.succeed(&["db", "import", part]);
    assert!(next.succeed(&["credential", "test", "vc1"]).contains("the saved password opens"));
    assert_eq!(next.json(&["vm", "list"])["items"].as_array().unwrap().len(), 0);
    next.succeed(&["vm", "add", "lab", "--all"]);

    let written = home.json(&["db", "export", schema, "--only", "schema"]);
    assert!(written["rows"] == 0 && rows(&written, "vm_disks") == Some(0), "{written}");
    assert!(!fs::read_to_string(schema).unwrap().contains("vc1"));
    let fresh = Home::new();
    assert!(fresh.succeed(&["db", "import", schema]).contains("no rows"));
    assert_eq!(fresh.json(&["credential", "list"]).as_array().unwrap().len(), 0);
}

#[test]
fn without_its_key_a_catalog_is_imported_and_the_way_out_is_said() {
    let home = lived_in();
    let file = home.path("dump");
    home.succeed(&["db", "export", file.to_str().unwrap()]);
    let next = Home::new();
    let said = next.succeed(&["db", "import", file.to_str().unwrap()]);
    assert!(said.contains("bring the key file of the catalog that was exported"), "{said}");
    next.refuse(&["credential", "test", "vc1"], 4, &["the key file is gone"]);
    fs::copy(home.path("migratekit/key"), next.path("migratekit/key")).unwrap();
    next.succeed(&["credential", "test", "vc1"]);
}

/// Nothing but `names` is in a folder.
fn assert_only(folder: &Path, names: &[&str]) {
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names, "in {}", folder.display());
}

#[test]
fn each_refusal_names_the_file_and_the_way_out() {
    let home = lived_in();
    let folder = home.path("files");
    fs::create_dir(&folder).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    home.succeed(&["db", "export", &at("good")]);
    let good = fs::read_to_string(at("good")).unwrap();
    // Never over a file, and never over a catalog that has rows.
    home.refuse(&["db", "export", &at("good")], 5, &["a file of this name exists", &at("good"), " next: choose another"]);
    assert_eq!(fs::read_to_string(at("good")).unwrap(), good);
    home.refuse(&["db", "export", &at("none/dump")], 4, &[&at("none/dump"), " next: "]);
    home.refuse(&["db", "import", &at("good")], 5, &["the catalog is not empty; import into a new one", " next: "]);

    let fresh = Home::new();
    let last = good.trim_end().rfind('\n').unwrap();
    let wrong: [(&str, Option<String>, i32, &str); 6] = [
        ("absent", None, 4, "does not exist"),
        ("empty", Some(String::new()), 3, "the file is empty"),
        ("foreign", Some("{\"a\":1}\n".into()), 3, "the file is no dump of a catalog"),
        (
            "newer",
            Some(good.replacen("\"format_version\":1", "\"format_version\":2", 1)),
            8,
            "import it with the version of this program that made it",
        ),
        ("cut", Some(good[..last / 2].into()), 16, "the dump ends too early"),
        ("changed", Some(good.replacen("web-01", "web-02", 1)), 16, "its digest is wrong"),
    ];
    for (name, text, code, why) in wrong {
        if let Some(text) = text {
            fs::write(at(name), text).unwrap();
        }
        fresh.refuse(&["db", "import", &at(name)], code, &[why, &at(name), " next: "]);
    }
    // Nothing of the failures stayed: the catalog takes the good one.
    fresh.succeed(&["db", "import", &at("good")]);
    assert_only(&folder, &["changed", "cut", "empty", "foreign", "good", "newer"]);

    let file = home.path("migratekit/catalog.db");
    sqlite(&file, "DELETE FROM schema_migrations WHERE version = (SELECT MAX(version) FROM schema_migrations)");
    home.refuse(&["db", "export", &at("older")], 3, &["the schema is older than this program", " next: "]);
    assert_only(&folder, &["changed", "cut", "empty", "foreign", "good", "newer"]);
}

#[test]
fn a_full_disk_leaves_no_half_file_and_no_half_catalog() {
    let mut home = lived_in();
    let many = "INSERT INTO audit_log (created_at, actor, action, subject_kind, subject_id, success, details) \
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
        SELECT i, 'me', 'x', 'y', 'z', 1, json_object('text', hex(randomblob(500))) FROM n";
    sqlite(&home.path("migratekit/catalog.db"), many);
    let small = home.path("small");
    fs::create_dir(&small).unwrap();
    home.disk = Some(SmallDisk::at(&small, MIB));
    let (file, whole) = (small.join("dump"), home.path("whole"));
    home.refuse(&["db", "export", file.to_str().unwrap()], 10, &["no space left", file.to_str().unwrap(), " next: "]);
    let disk = home.disk.as_ref().unwrap();
    assert_only(&disk.outside(), &[]);
    home.succeed(&["db", "export", whole.to_str().unwrap()]);

    // The other way: a catalog on the small disk.
    disk.resize(2 * MIB);
    let url = format!("sqlite://{}", small.join("catalog.db").display());
    let import = ["db", "import", whole.to_str().unwrap(), "--store", &url];
    home.refuse(&import, 10, &["the disk that holds the catalog is full", &url, " next: "]);
    assert_eq!(home.json(&["vm", "list", "--store", &url])["items"].as_array().unwrap().len(), 0, "nothing of it stayed");
    disk.resize(64 * MIB);
    home.succeed(&import);
    assert_eq!(told(&home, &["--store", &url]), told(&home, &[]));
}
