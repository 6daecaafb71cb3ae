//! `key generate`: made once, never printed, never overwritten, and never handed on to the programs we start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use migratekit_core::credentials::{KEY_VARIABLE, Key};
use migratekit_core::testing::peer::program;

use crate::run::MIGRATEKIT;

/// Any key.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A command of a user whose home is `home`.
fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(MIGRATEKIT);
    command.args(args).env("HOME", home).env_remove("XDG_DATA_HOME").env_remove(KEY_VARIABLE).stdin(Stdio::null());
    command
}

fn shown(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn the_file_is_made_where_it_belongs_and_only_its_name_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    for (args, path) in [
        (&["key", "generate"][..], home.path().join(".local/share/migratekit/key")),
        (&["key", "generate", "--key-file", "named"][..], home.path().join("named")),
    ] {
        let out = command(home.path(), args).current_dir(home.path()).args(["--output", "json"]).output().unwrap();
        assert!(out.status.success(), "{}", shown(&out));
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let key = fs::read_to_string(&path).unwrap();
        assert_eq!(report["fingerprint"], Key::parse(&key).unwrap().fingerprint().to_string());
        assert!(path.ends_with(report["path"].as_str().unwrap()));
        assert!(!shown(&out).contains(key.trim()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    let out = command(home.path(), &["key", "generate"]).env("XDG_DATA_HOME", &data).output().unwrap();
    let path = data.join("migratekit/key");
    assert!(shown(&out).starts_with(&format!("{}\nfingerprint ", path.display())), "{}", shown(&out));
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn what_is_there_wins() {
    let home = tempfile::tempdir().unwrap();
    let (path, text) = (home.path().join("key"), "precious\n");
    fs::write(&path, text).unwrap();
    let out = command(home.path(), &["key", "generate", "--key-file", path.to_str().unwrap()]).output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", shown(&out));
    assert!(shown(&out).contains("there is a key file already") && !shown(&out).contains("precious"), "{}", shown(&out));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    // A key in the environment wins over any file, so a file would be of no use.
    let out = command(home.path(), &["key", "generate"]).env(KEY_VARIABLE, KEY).output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", shown(&out));
    assert!(shown(&out).contains(KEY_VARIABLE) && !shown(&out).contains(KEY), "{}", shown(&out));
    assert!(!home.path().join(".local").exists());
}

#[test]
fn of_many_processes_one_makes_it() {
    let home = tempfile::tempdir().unwrap();
    let start = || command(home.path(), &["key", "generate"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let running: Vec<_> = (0..8).map(|_| start()).collect();
    let ended: Vec<Output> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let codes: Vec<_> = ended.iter().map(|out| out.status.code()).collect();
    assert_eq!((codes.iter().filter(|c| **c == Some(0)).count(), codes.iter().filter(|c| **c == Some(5)).count()), (1, 7), "{codes:?}");
    let folder = home.path().join(".local/share/migratekit");
    let key = Key::parse(&fs::read_to_string(folder.join("key")).unwrap()).unwrap();
    let winner = ended.iter().find(|out| out.status.success()).unwrap();
    assert!(shown(winner).contains(&key.fingerprint().to_string()));
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn the_programs_we_start_do_not_get_the_key() {
    let home = tempfile::tempdir().unwrap();
    let (tools, seen) = (home.path().join("tools"), home.path().join("seen"));
    fs::create_dir(&tools).unwrap();
    for name in ["qemu-img", "qemu-nbd"] {
        let tool = tools.join(name);
        fs::write(&tool, format!("#!/bin/sh\n{{ echo {name}; env; }} >> {}\nexec {} \"$@\"\n", seen.display(), program(name))).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (image, target) = (home.path().join("disk.qcow2"), home.path().join("disk.raw"));
    assert!(Command::new(program("qemu-img")).args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M").status().unwrap().success());
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let mut copy = command(home.path(), &["copy", image.to_str().unwrap(), target.to_str().unwrap()]);
    let out = copy.env(KEY_VARIABLE, KEY).env("PATH", path).output().unwrap();
    assert!(out.status.success(), "{}", shown(&out));
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("qemu-img") && seen.contains("qemu-nbd") && seen.contains("HOME="), "{seen}");
    assert!(!seen.contains(KEY_VARIABLE) && !seen.contains(KEY), "{seen}");
}
