//! The embedded catalog stays small though no service ever runs on it: every verb does a part of the housekeeping when it is due.

use std::process::Command;

use migratekit_core::testing::peer::program;

use crate::engine_rig::Home;

/// Runs SQL on the home's catalog; what it prints.
fn sqlite(home: &Home, sql: &str) -> String {
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as c: print(*[row[0] for row in c.execute(sys.argv[2])])";
    let file = home.path("migratekit/catalog.db");
    let out = Command::new(program("python3")).args(["-c", script]).arg(file).arg(sql).output().unwrap();
    assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn verbs_remove_what_is_old_a_bounded_part_at_a_time_once_an_hour() {
    let home = Home::new();
    home.succeed(&["vm", "list"]);
    let old = "INSERT INTO log_events (level, message, attrs, ts) \
               WITH RECURSIVE n (v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < 10600) SELECT 'INFO', 'old', '{}', v FROM n";
    sqlite(&home, old);
    let left = || sqlite(&home, "SELECT COUNT(*) FROM log_events WHERE message = 'old'");
    home.succeed(&["vm", "list"]);
    assert_eq!(left(), "10600", "the first verb did it an instant ago; it is not due");
    sqlite(&home, "UPDATE store_facts SET value = '1' WHERE name = 'housekeeping_due'");
    home.succeed(&["credential", "list"]);
    assert_eq!(left(), "600", "a bounded part");
    home.succeed(&["job", "list"]);
    assert_eq!(left(), "0", "the rest is due at once");
}
