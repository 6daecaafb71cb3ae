//! Catalogs that cannot be used: each refused with its reason and the way out.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::engine_rig::{Home, shown, sqlite};

#[test]
fn addresses_and_files_that_are_no_catalog() {
    let home = Home::new();
    home.refuse(&["credential", "list", "--store", "postgres://x"], 3, &["sqlite:// or mysql://"]);
    let said = home.refuse(&["credential", "list", "--store", "mysql://mk:hunter2@db/c"], 3, &["a password must not stand in the address"]);
    assert!(!said.contains("hunter2"), "{said}");
    let path = home.path("no/such/folder/catalog.db");
    home.refuse(&["credential", "list", "--store", &format!("sqlite://{}", path.display())], 4, &["the folder that is to hold the file"]);
    let text = home.path("text.db");
    fs::write(&text, "this is no database, and long enough to look like one".repeat(100)).unwrap();
    let out = home.run(&["credential", "list", "--store", &format!("sqlite://{}", text.display())]);
    assert!(!out.status.success() && shown(&out).contains(" next: "), "{}", shown(&out));
    let password = home.path("password");
    fs::write(&password, "secret\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let said = home.refuse(
        &["credential", "list", "--store", "mysql://mk@127.0.0.1:1/c", "--store-password-file", password.to_str().unwrap()],
        7,
        &["others may read the file"],
    );
    assert!(!said.contains("secret"), "{said}");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    home.refuse(
        &["credential", "list", "--store", "mysql://mk@127.0.0.1:1/c", "--store-password-file", password.to_str().unwrap()],
        11,
        &[" next: "],
    );
}

#[test]
fn a_newer_schema_and_a_file_of_another_host() {
    let home = Home::new();
    home.succeed(&["credential", "list"]);
    let file = home.path("migratekit/catalog.db");
    sqlite(&file, "INSERT INTO schema_migrations VALUES ('29991231000000', 'from the future', 0)");
    home.refuse(&["credential", "list"], 8, &["a newer version of this program", "29991231000000"]);
    sqlite(&file, "DELETE FROM schema_migrations WHERE version = '29991231000000'");
    home.succeed(&["credential", "list"]);
    sqlite(&file, "UPDATE store_facts SET value = 'elsewhere' WHERE name = 'home_host'");
    home.refuse(&["credential", "list"], 7, &["belongs to another host"]);
    home.succeed(&["db", "adopt"]);
    home.succeed(&["credential", "list"]);
}

#[test]
fn the_schema_is_told_and_brought_up_to_date() {
    let home = Home::new();
    home.refuse(&["db", "status"], 4, &["migratekit/catalog.db"]);
    let done = home.json(&["db", "migrate"]);
    assert!(!done["applied"].as_array().unwrap().is_empty(), "{done}");
    assert_eq!(home.json(&["db", "migrate"])["applied"].as_array().unwrap().len(), 0, "the second time nothing is done");
    let status = home.json(&["db", "status"]);
    assert_eq!((status["backend"].as_str(), status["pending"].as_array().unwrap().len()), (Some("sqlite"), 0), "{status}");
    assert_eq!(status["key"]["health"], "absent", "{status}");
    home.succeed(&["credential", "list"]);
    assert_eq!(home.json(&["db", "status"])["key"]["health"], "good");
}
