//! The trust in a VMA, between processes: one that serves, one that administers, one that is the VMA.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};

use migratekit_core::testing::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::run::{command, random_image, run_within, succeed};

/// `tunnel serve` from a catalog.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) port: String,
    pub(crate) fingerprint: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where everything of a test is.
pub(crate) struct Site<'a> {
    pub(crate) folder: &'a Path,
    store: String,
    key_file: String,
}

impl<'a> Site<'a> {
    pub(crate) fn new(folder: &'a Path) -> Self {
        Site::on(folder, format!("sqlite://{}", folder.join("catalog.db").display()))
    }

    /// With this catalog.
    pub(crate) fn on(folder: &'a Path, store: String) -> Self {
        Site { folder, store, key_file: folder.join("vault").display().to_string() }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(crate) fn with_place<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        [args, &["--store", &self.store, "--key-file", &self.key_file]].concat()
    }

    pub(crate) fn serve(&self, export: &str) -> Serving {
        self.serve_with(&["--export", export])
    }

    pub(crate) fn serve_with(&self, more: &[&str]) -> Serving {
        let host_key = self.path("host_key");
        let args = [&["tunnel", "serve", "--listen", "127.0.0.1:0", "--host-key", &host_key], more].concat();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("serve.log")).unwrap();
        let mut serve = command(&self.with_place(&args));
        serve.env("MIGRATEKIT_LOG", "migratekit_core::tunnels=info,warn").stderr(log);
        let mut child = serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["listening", "on", address, "fingerprint", fingerprint] = words.as_slice() else { panic!("it printed {line:?}") };
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        Serving { child, port, fingerprint: (*fingerprint).to_owned() }
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&succeed(&[&self.with_place(args)[..], &["--output", "json"]].concat())).unwrap()
    }

    /// What a refused command says, and its code.
    pub(crate) fn refused(&self, args: &[&str]) -> (i32, String) {
        let out = run_within(60, &self.with_place(args));
        (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// `vma enroll`, its code on standard input.
    pub(crate) fn enroll(&self, port: &str, code: &str, more: &[&str]) -> Child {
        let (to, key) = (format!("127.0.0.1:{port}"), self.path("vma_key"));
        let args = [&["vma", "enroll", "--to", &to, "--key", &key, "--name", "vma-1", "--output", "json"], more].concat();
        let mut child = command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
        child
    }
}

impl Site<'_> {
    /// Enrolls the VMA and approves it; its fingerprint.
    pub(crate) fn trust(&self, serving: &Serving) -> String {
        let code = self.json(&["vma", "pairing-code"])["pairing_code"].as_str().unwrap().to_owned();
        let out = self.enroll(&serving.port, &code, &["--no-wait"]).wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let known: Value = serde_json::from_slice(&out.stdout).unwrap();
        let print = known["fingerprint"].as_str().unwrap();
        self.json(&["vma", "approve", "vma-1", "--fingerprint", print]);
        print.to_owned()
    }

    /// The lines of the serving process's log with all these words.
    pub(crate) fn logged(&self, words: &[&str]) -> usize {
        let log = std::fs::read_to_string(self.path("serve.log")).unwrap();
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

#[test]
fn a_vma_enrolls_copies_and_is_revoked_by_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    random_image(&source, 8 << 20, 60, &mut Rng::new(4));
    std::fs::File::create(&target).unwrap().set_len(8 << 20).unwrap();
    let mut serving = site.serve(&format!("disk@vma-1={}", target.display()));

    // A wrong code is refused, and written down.
    let made = site.json(&["vma", "pairing-code"]);
    let code = made["pairing_code"].as_str().unwrap().to_owned();
    let out = site.enroll(&serving.port, "2222-3333-4444", &[]).wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(7), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(site.json(&["vma", "audit", "--refused"]).as_array().unwrap().len(), 1);

    // The right one: the VMA knows the host key, and waits.
    let out = site.enroll(&serving.port, &code, &["--no-wait"]).wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let known: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(known["host_key_fingerprint"], serving.fingerprint.as_str());
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join("vma_key.oma")).unwrap()).unwrap();
    assert_eq!(kept["host_key"], known["host_key"]);
    let print = known["fingerprint"].as_str().unwrap();
    let pending = site.json(&["vma", "pending"]);
    assert_eq!((pending.as_array().unwrap().len(), &pending[0]["fingerprint"]), (1, &known["fingerprint"]));

    let (far, key) = (format!("ssh://127.0.0.1:{}/disk", serving.port), site.path("vma_key"));
    let copy = ["copy", source.to_str().unwrap(), &far, "--ssh-key", &key, "--ssh-host-key", &serving.fingerprint];
    let copied = |expected: i32| {
        let out = run_within(60, &copy);
        assert_eq!(out.status.code(), Some(expected), "{}", String::from_utf8_lossy(&out.stderr));
    };
    copied(7);
    // A key that may not come in is written down at once.
    let keys_refused = || {
        let lines = site.json(&["vma", "audit", "--refused"]);
        let keys = lines.as_array().unwrap().iter().filter(|line| line["action"] == "tunnel.key").cloned();
        keys.collect::<Vec<Value>>()
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while keys_refused().is_empty() {
        assert!(std::time::Instant::now() < end, "no line about the refused key");
    }
    assert_eq!((&keys_refused()[0]["details"]["key"], &keys_refused()[0]["source_ip"]), (&known["fingerprint"], &"127.0.0.1".into()));
    let wrong = site.refused(&["vma", "approve", "vma-1", "--fingerprint", &serving.fingerprint]);
    assert!(wrong.0 != 0 && wrong.1.contains("another fingerprint"), "{wrong:?}");
    let approved = site.json(&["vma", "approve", "vma-1", "--fingerprint", print]);
    assert_eq!((approved["status"].as_str(), approved["reverse_port"].as_u64()), (Some("approved"), Some(9081)));
    copied(0);
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap(), "target equals source");
    assert_eq!(site.json(&["vma", "active"]).as_array().unwrap().len(), 1);

    // Another key, without an administrator; the old one is out, and so is it to be found nowhere.
    let before = std::fs::read(folder.path().join("vma_key")).unwrap();
    let rotated: Value = serde_json::from_str(&succeed(&["vma", "rotate-key", "--key", &key, "--output", "json"])).unwrap();
    assert!(rotated["fingerprint"] != known["fingerprint"] && std::fs::read(folder.path().join("vma_key")).unwrap() != before);
    copied(0);
    let old = site.path("old_key");
    std::fs::write(&old, before).unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let by_old = run_within(60, &["copy", source.to_str().unwrap(), &far, "--ssh-key", &old, "--ssh-host-key", &serving.fingerprint]);
    assert_eq!(by_old.status.code(), Some(7), "{}", String::from_utf8_lossy(&by_old.stderr));
    let active = site.json(&["vma", "active"]);
    assert_eq!((active.as_array().unwrap().len(), &active[0]["enrollment"]["fingerprint"]), (1, &rotated["fingerprint"]));
    let print = rotated["fingerprint"].as_str().unwrap();

    let revoked = site.json(&["vma", "revoke", "vma-1"]);
    assert_eq!(revoked["cut"], "by_server");
    copied(7);
    let events: Vec<String> = site
        .json(&["vma", "audit", "--fingerprint", print])
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events[0], "revocation");
    assert_eq!(&events[events.len() - 3..], ["approval", "verification", "enrollment"], "the history of the second key");

    // A code is shown once, and nothing else prints it.
    for args in [&["vma", "pending"][..], &["vma", "active"], &["vma", "audit"], &["vma", "audit", "--refused"], &["vma", "limits"]] {
        let text = succeed(&site.with_place(args));
        assert!(!text.contains(&code) && !text.is_empty(), "{args:?}: {text}");
    }
    // What was counted since is written when the process that serves ends: the old key, and the revoked one.
    kill_process(Pid::from_child(&serving.child), Signal::TERM).unwrap();
    serving.child.wait().unwrap();
    let counts = keys_refused().iter().map(|line| line["details"]["count"].as_u64().unwrap()).sum::<u64>();
    assert!(keys_refused().len() <= 3 && counts >= 3, "{:?}", keys_refused());
}

#[test]
fn a_vma_waits_until_it_is_approved_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    std::fs::File::create(folder.path().join("target")).unwrap().set_len(1 << 20).unwrap();
    let serving = site.serve(&format!("disk@vma-1={}", site.path("target")));
    let code = site.json(&["vma", "pairing-code"])["pairing_code"].as_str().unwrap().to_owned();
    let mut waiting = site.enroll(&serving.port, &code, &[]);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while site.json(&["vma", "pending"])[0]["status"] != "awaiting_approval" {
        assert!(std::time::Instant::now() < end && waiting.try_wait().unwrap().is_none(), "it does not wait");
    }
    site.json(&["vma", "reject", "vma-1"]);
    // Asked to end while it waits, it ends.
    kill_process(Pid::from_child(&waiting), Signal::TERM).unwrap();
    let status = waiting.wait().unwrap();
    assert!(!status.success());
    assert!(site.json(&["vma", "pending"]).as_array().unwrap().is_empty());
    let nobody = site.refused(&["vma", "approve", "vma-1", "--fingerprint", &serving.fingerprint]);
    assert!(nobody.0 != 0 && nobody.1.contains("no VMA of this id or name"), "{nobody:?}");
}
