//! The catalog on a real MariaDB: every verb as on the embedded one, several hosts of which some are dead, and what is refused.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::testing::peer::free_port;
use rustix::process::Signal;

use crate::engine_rig::{Home, shown};
use crate::run::assert_equal;

const MIB: u64 = 1 << 20;
const PASSWORD: &str = "open-sesame-4711";

/// A server with an empty database `catalog` of a user `mk`, who has a password.
fn server() -> MariaDb {
    let server = MariaDb::start();
    server.create_database("catalog");
    server.sql(&format!("CREATE USER mk@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON catalog.* TO mk@'127.0.0.1'"));
    server
}

/// The address of `server`'s catalog, with further hosts in front of it.
fn url(server: &MariaDb, before: &[u16]) -> String {
    let hosts: Vec<_> = before.iter().chain([&server.port()]).map(|port| format!("127.0.0.1:{port}")).collect();
    format!("mysql://mk@{}/catalog?tls=off", hosts.join(","))
}

fn password_file(home: &Home, text: &str, mode: u32) -> PathBuf {
    let path = home.path(&format!("password-{mode:o}-{}", text.len()));
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A home whose every command works on this catalog.
fn home_on(url: &str) -> Home {
    let mut home = Home::new();
    let password = password_file(&home, PASSWORD, 0o600);
    home.environment.push(("MIGRATEKIT_STORE", url.to_owned()));
    home.environment.push(("MIGRATEKIT_STORE_PASSWORD_FILE", password.display().to_string()));
    home
}

#[test]
fn every_verb_works_and_the_second_start_is_a_conflict() {
    let server = server();
    let home = home_on(&url(&server, &[]));
    let applied = home.json(&["db", "migrate"]);
    assert!(applied["applied"].as_array().unwrap().len() > 5, "{applied}");
    assert!(home.json(&["db", "migrate"])["applied"].as_array().unwrap().is_empty());
    let out = home.run_with_input(&["credential", "add", "vmware", "vc1", "--host", "vc", "--username", "u"], "the-vcenter's\n");
    assert!(out.status.success(), "{}", shown(&out));
    let kept = server.sql("SELECT password_encrypted FROM catalog.vmware_credentials");
    assert!(kept.starts_with("mk1:") && !kept.contains("the-vcenter's"), "{kept}");
    home.make_machine("web-01", &[128 * MIB, MIB], 5);
    home.manage_all();
    // What a job says of itself is kept, also beside lines that belong to no job.
    home.refuse(&["replicate", "web-01", "--incremental"], 3, &[" next: "]);
    let (disk, aside) = (home.machine("web-01").join("0.img"), home.path("aside.img"));
    std::fs::rename(&disk, &aside).unwrap();
    home.refuse(&["replicate", "web-01"], 4, &[" next: "]);
    std::fs::rename(&aside, &disk).unwrap();
    let failed = home.json(&["job", "list", "--status", "failed"])["items"][0]["job_id"].as_str().unwrap().to_owned();
    let log = home.succeed(&["job", "log", &failed]);
    assert!(log.contains("WARN") && log.contains("the step failed"), "{log}");

    let mut first = home.start(&["replicate", "web-01", "--watch"], "first");
    assert!(first.wait_for("Copying"), "{}", first.said());
    // It stands still, so that it cannot end before the second one begins; and for less than its lease.
    first.signal(Signal::STOP);
    let said = home.refuse(&["replicate", "web-01"], 6, &["another job of this VM is active", " next: "]);
    let active = home.json(&["job", "list", "--active"]);
    first.signal(Signal::CONT);
    assert_eq!(active["items"].as_array().unwrap().len(), 1, "{active}; {said}");
    assert_eq!(first.wait(), Some(0), "{}", first.said());
    assert!(!first.said().contains(PASSWORD));

    let jobs = home.json(&["job", "list"]);
    let jobs = jobs["items"].as_array().unwrap();
    let all: Vec<_> = jobs.iter().map(|job| job["status"].as_str().unwrap()).collect();
    assert_eq!(all, ["completed", "failed"], "{jobs:?}");
    let detail = home.json(&["job", "show", jobs[0]["job_id"].as_str().unwrap()]);
    assert!(!detail["steps"].as_array().unwrap().is_empty(), "{detail}");
    assert!(home.succeed(&["job", "watch", jobs[0]["job_id"].as_str().unwrap()]).contains("completed"));
    for (number, replica) in home.replicas("web-01").iter().enumerate() {
        assert_equal(&home.machine("web-01").join(format!("{number}.img")), replica, "on MariaDB");
    }
    let status = home.json(&["db", "status"]);
    assert_eq!((&status["backend"], &status["key"]["health"]), (&"mariadb".into(), &"good".into()), "{status}");
    assert!(status["pending"].as_array().unwrap().is_empty() && !status.to_string().contains(PASSWORD), "{status}");
    assert!(!home.path("migratekit/catalog.db").exists(), "nothing went to the embedded catalog");
}

#[test]
fn a_host_that_is_dead_or_silent_costs_no_verb() {
    let server = server();
    // One where nobody listens, and one that takes calls and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = free_port();
    let home = home_on(&url(&server, &[dead, silent.local_addr().unwrap().port()]));
    home.succeed(&["db", "migrate"]);
    let home = home_on(&url(&server, &[dead]));
    home.make_machine("web-01", &[MIB], 6);
    home.manage_all();
    assert_eq!(home.json(&["replicate", "web-01"])["status"], "completed");
    let list = home.succeed(&["vm", "list"]);
    assert!(list.contains("web-01") && !list.contains(PASSWORD), "{list}");
    // When all of them are dead, each is not blamed for the other: the last that was tried is named, and what to do.
    let nobody = home_on(&format!("mysql://mk@127.0.0.1:{dead},127.0.0.1:{}/catalog?tls=off", free_port()));
    let said = nobody.refuse(&["vm", "list"], 11, &["127.0.0.1:", " next: "]);
    assert!(!said.contains(PASSWORD), "{said}");
}

#[test]
fn a_wrong_password_is_said_and_not_repeated() {
    let server = server();
    let home = home_on(&url(&server, &[]));
    let wrong = password_file(&home, "wrong-horse", 0o600);
    let said = home.refuse(&["db", "migrate", "--store-password-file", wrong.to_str().unwrap()], 7, &["let this user in", " next: "]);
    assert!(!said.contains("wrong-horse") && !said.contains(PASSWORD), "{said}");
    // What was refused made nothing; with the right one it begins.
    home.succeed(&["db", "migrate"]);
}
