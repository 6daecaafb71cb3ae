//! The key and the catalog: rotated, lost, wrong, absent.

use std::fs;

use migratekit_core::credentials::KEY_VARIABLE;

use crate::engine_rig::{Home, shown};

fn with_secret() -> Home {
    let home = Home::new();
    let args = ["credential", "add", "vmware", "vc1", "--host", "vc", "--username", "u"];
    let out = home.run_with_input(&args, "password\n");
    assert!(out.status.success(), "{}", shown(&out));
    home
}

#[test]
fn a_rotation_moves_every_secret_and_may_be_repeated() {
    let home = with_secret();
    let before = fs::read_to_string(home.path("migratekit/key")).unwrap();
    for _ in 0..2 {
        let done = home.json(&["key", "rotate"]);
        assert_eq!((done["moved"].as_u64(), done["unopened_count"].as_u64()), (Some(1), Some(0)), "{done}");
        assert_eq!(done["dropped"].as_array().unwrap().len(), 1, "{done}");
    }
    let after = fs::read_to_string(home.path("migratekit/key")).unwrap();
    assert_ne!(before, after);
    assert!(home.succeed(&["credential", "test", "vc1"]).contains("the saved password opens"));
    // The key of before is not the catalog's any more.
    fs::write(home.path("old"), before).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(home.path("old"), mode).unwrap();
    home.refuse(&["credential", "list", "--key-file", home.path("old").to_str().unwrap()], 20, &["not the key", "sealed with key"]);
}

/// Killed after it wrote the key file, before the catalog knew: secrets can be saved, and the rotation is finished when it is run again.
#[test]
fn a_rotation_that_was_killed_at_its_beginning_stands_in_nobody_s_way() {
    let home = with_secret();
    let (key, new) = (home.path("migratekit/key"), home.path("new"));
    home.succeed(&["key", "generate", "--key-file", new.to_str().unwrap()]);
    let keys = fs::read_to_string(&new).unwrap() + &fs::read_to_string(&key).unwrap();
    fs::write(&key, keys).unwrap();
    let out = home.run_with_input(&["credential", "add", "vmware", "vc2", "--host", "vc", "--username", "u"], "second\n");
    assert!(out.status.success(), "{}", shown(&out));
    for moved in [2, 0] {
        let done = home.json(&["key", "rotate"]);
        assert_eq!(done["unopened_count"].as_u64(), Some(0), "{done}");
        assert!(moved == 0 || done["moved"].as_u64() == Some(moved), "{done}");
        for name in ["vc1", "vc2"] {
            assert!(home.succeed(&["credential", "test", name]).contains("the saved password opens"));
        }
    }
}

#[test]
fn a_lost_key_is_refused_with_the_way_out_and_the_way_out_works() {
    let home = with_secret();
    fs::rename(home.path("migratekit/key"), home.path("lost")).unwrap();
    home.refuse(&["credential", "list"], 4, &["the key file is gone", "migratekit key generate"]);
    assert!(!home.path("migratekit/key").exists(), "no new key is made over sealed secrets");
    home.succeed(&["key", "generate"]);
    home.refuse(&["credential", "list"], 20, &["not the key", "must be entered again", "--old-key-lost"]);
    let report = home.json(&["key", "rotate", "--old-key-lost"]);
    assert_eq!(report["lost"].as_array().unwrap().len(), 1, "{report}");
    home.refuse(&["credential", "test", "vc1"], 20, &["another key sealed it"]);
    let out = home.run_with_input(&["credential", "update", "vc1", "--password-file", "-"], "again\n");
    assert!(out.status.success(), "{}", shown(&out));
    assert!(home.succeed(&["credential", "test", "vc1"]).contains("the saved password opens"));
    home.refuse(&["key", "rotate", "--old-key-lost"], 3, &["nothing is lost"]);
}

#[test]
fn another_key_in_the_environment_is_refused() {
    let home = with_secret();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let out = home.command(&["credential", "list"]).env(KEY_VARIABLE, key).output().unwrap();
    assert_eq!(out.status.code(), Some(20), "{}", shown(&out));
    assert!(!shown(&out).contains(key), "{}", shown(&out));
}

#[test]
fn the_doctor_tells_of_catalog_and_key_and_makes_neither() {
    let home = Home::new();
    let text = home.succeed(&["doctor"]);
    assert!(text.contains("not made yet"), "{text}");
    assert!(!home.path("migratekit").exists(), "looking makes nothing");
    let home = with_secret();
    let report = home.json(&["doctor"]);
    let found = |name: &str| {
        let check = report["checks"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
        format!("{}: {}", check["status"].as_str().unwrap(), check["found"].as_str().unwrap())
    };
    assert!(found("catalog").starts_with("ok: sqlite://") && found("catalog").contains("schema 2"), "{}", found("catalog"));
    assert!(found("key").ends_with("and the catalog's"), "{}", found("key"));
    fs::remove_file(home.path("migratekit/key")).unwrap();
    let text = home.succeed(&["doctor"]);
    assert!(text.contains("the key file is gone"), "{text}");
}
