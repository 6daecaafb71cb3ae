//! A copy through the tunnel between two processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::program;
use rustix::process::{Pid, Signal, kill_process};

use crate::run::{command, copy_report, number, random_image, run_within, succeed};

/// `tunnel serve`, and what it printed.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) port: String,
    pub(crate) fingerprint: String,
}

impl Serving {
    pub(crate) fn start(folder: &Path, exports: &[&str]) -> Self {
        let text = |name: &str| folder.join(name).display().to_string();
        let mut all = vec!["tunnel".to_owned(), "serve".into(), "--listen".into(), "127.0.0.1:0".into()];
        all.extend(["--host-key".into(), text("host_key"), "--authorized-keys".into(), text("authorized")]);
        for export in exports {
            all.extend(["--export".into(), (*export).to_owned()]);
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut child = command(&all).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["listening", "on", address, "fingerprint", fingerprint] = words.as_slice() else { panic!("it printed {line:?}") };
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        Serving { child, port, fingerprint: (*fingerprint).to_owned() }
    }

    pub(crate) fn address(&self, export: &str) -> String {
        format!("ssh://127.0.0.1:{}/{export}", self.port)
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A key as a user has it; its public half is what comes in.
pub(crate) fn keys(folder: &Path) -> String {
    let key = key_of(folder, "key", "vma");
    std::fs::copy(folder.join("key.pub"), folder.join("authorized")).unwrap();
    key
}

/// A key in a file of this name, by this remark.
fn key_of(folder: &Path, name: &str, remark: &str) -> String {
    let key = folder.join(name).display().to_string();
    let made = Command::new(program("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-C", remark, "-f", &key]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    key
}

#[test]
fn a_disk_goes_through_the_tunnel_between_two_processes_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target, back) = (folder.path().join("source"), folder.path().join("target"), folder.path().join("back"));
    random_image(&source, 32 << 20, 60, &mut Rng::new(4));
    std::fs::File::create(&target).unwrap().set_len(32 << 20).unwrap();
    let key = keys(folder.path());
    let serving = Serving::start(folder.path(), &[&format!("disk={}", target.display())]);
    let (far, print) = (serving.address("disk"), serving.fingerprint.clone());
    let enter = ["--ssh-key", key.as_str(), "--ssh-host-key", print.as_str()];

    let report = copy_report(&[&[source.to_str().unwrap(), &far, "--verify=full"], &enter[..]].concat());
    assert!(number(&report, "bytes_written") > 0 && report["pass"].is_string(), "{report}");
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap(), "target equals source");
    copy_report(&[&[far.as_str(), back.to_str().unwrap()], &enter[..]].concat());
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&back).unwrap(), "what came back equals the source");
    let differing = succeed(&[&["diff", source.to_str().unwrap(), &far], &enter[..]].concat());
    assert_eq!(differing.trim(), "[]");

    // Another host key, another key, no key: refused, with the cause, and nothing secret is said.
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    let refused = |args: &[&str], code: i32, says: &str| {
        let out = run_within(60, args);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(code) && error.contains(says), "{:?}: {error}", out.status);
        assert!(!error.contains("PRIVATE KEY"), "{error}");
    };
    let denied = 7;
    refused(&["copy", source.to_str().unwrap(), &far, "--ssh-key", &key, "--ssh-host-key", other], denied, "pinned");
    std::fs::write(folder.path().join("authorized"), "").unwrap();
    refused(&[&["copy", source.to_str().unwrap(), &far], &enter[..]].concat(), denied, "does not take this key");
    refused(&["copy", source.to_str().unwrap(), &far], 3, "--ssh-host-key");
    serving.stop();

    // The key was made once: the server is the same when it comes again.
    let again = Serving::start(folder.path(), &[]);
    assert_eq!(again.fingerprint, print);
    again.stop();
}

#[test]
fn each_vma_sees_the_exports_that_are_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let disk = |name: &str| {
        let path = folder.path().join(name);
        random_image(&path, 1 << 20, 100, &mut Rng::new(name.len() as u64));
        path.display().to_string()
    };
    let (one, two) = (key_of(folder.path(), "one", "site one"), key_of(folder.path(), "two", "two"));
    let public = |key: &str| std::fs::read_to_string(format!("{key}.pub")).unwrap();
    std::fs::write(folder.path().join("authorized"), public(&one) + &public(&two)).unwrap();

    // With two VMAs it must be said whose an export is.
    let (a, b) = (disk("a.img"), disk("bb.img"));
    let text = |name: &str| folder.path().join(name).display().to_string();
    let (host_key, authorized, export) = (text("host_key"), text("authorized"), format!("a={a}"));
    let serve =
        ["tunnel", "serve", "--listen", "127.0.0.1:0", "--host-key", &host_key, "--authorized-keys", &authorized, "--export", &export];
    let out = run_within(60, &serve);
    assert!(out.status.code() == Some(3) && String::from_utf8_lossy(&out.stderr).contains("NAME@VMA=PATH"), "{out:?}");

    let serving = Serving::start(folder.path(), &[&format!("a@site one={a}"), &format!("b@two={b}")]);
    let print = serving.fingerprint.clone();
    let copy = |export: &str, key: &str| {
        let back = folder.path().join("back");
        let _ = std::fs::remove_file(&back);
        let from = serving.address(export);
        let out = run_within(60, &["copy", &from, back.to_str().unwrap(), "--ssh-key", key, "--ssh-host-key", &print]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned(), back)
    };
    for (export, key, from) in [("a", &one, &a), ("b", &two, &b)] {
        let (code, said, back) = copy(export, key);
        assert_eq!(code, Some(0), "{said}");
        assert!(std::fs::read(back).unwrap() == std::fs::read(from).unwrap());
    }
    // Another's is answered as what nobody has, but for its name.
    for (foreign, key) in [("a", &two), ("b", &one)] {
        let ((code, said, _), (unknown, unknown_said, _)) = (copy(foreign, key), copy("c", key));
        assert!(code == unknown && code != Some(0), "{code:?} {unknown:?} {said}");
        assert_eq!(said.replace(&format!("/{foreign}"), "/c").replace(&format!("export: {foreign}"), "export: c"), unknown_said);
    }
    serving.stop();
}

#[test]
fn what_sshd_is_to_be_told_is_printed_for_each_key() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (key_of(folder.path(), "one", "site one"), key_of(folder.path(), "two", "two"));
    let (one, two) = (format!("{one}.pub"), format!("{two}.pub"));
    let print = |args: &[&str]| succeed(&[&["tunnel", "sshd-config"], args].concat());
    let text = print(&["--key", &one, "--key", &two, "--authorized-keys", "/etc/ssh/vma.keys"]);
    for part in [
        "Match User vma_tunnel\n",
        "AllowTcpForwarding yes\n",
        "PermitListen 127.0.0.1:9081 127.0.0.1:9082\n",
        "AuthorizedKeysFile /etc/ssh/vma.keys\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let key = std::fs::read_to_string(&two).unwrap();
    let line = text.lines().find(|line| line.ends_with(key.trim())).unwrap();
    assert!(line.starts_with("restrict,port-forwarding,") && line.contains("permitlisten=\"127.0.0.1:9082\""), "{line}");
    let json: serde_json::Value =
        serde_json::from_str(&print(&["--output", "json", "--open", "10809", "--key", &one, "--listen", "9100", "--user", "vma"])).unwrap();
    assert!(
        json["block"].as_str().unwrap().contains("PermitOpen 127.0.0.1:10809\n") && json["authorized_keys"].as_array().unwrap().len() == 1
    );
    assert!(json["authorized_keys"][0].as_str().unwrap().contains("permitlisten=\"127.0.0.1:9100\""), "{json}");
    assert!(print(&[]).contains("--key"), "without a key it says how to get a line");
    for wrong in
        [&["--user", "*"][..], &["--open", "0"], &["--key", &one, "--key", &two, "--listen", "9081"], &["--authorized-keys", "keys"]]
    {
        let out = run_within(60, &[&["tunnel", "sshd-config"], wrong].concat());
        assert_eq!(out.status.code(), Some(3), "{wrong:?}: {out:?}");
    }
    // sshd takes it, where it is installed.
    let (host, config) = (key_of(folder.path(), "host", "host"), folder.path().join("sshd_config"));
    std::fs::write(&config, format!("HostKey {host}\nUsePAM no\nPort 1\n{}", json["block"].as_str().unwrap())).unwrap();
    let mut check = Command::new(program("sshd"));
    let out = check.args(["-T", "-C", "user=vma,host=x,addr=127.0.0.1", "-f", config.to_str().unwrap()]).output().unwrap();
    let effective = String::from_utf8_lossy(&out.stdout).into_owned();
    for line in ["permitopen 127.0.0.1:10809", "permitlisten 127.0.0.1:9100", "maxsessions 0", "allowtcpforwarding yes", "permittty no"] {
        assert!(effective.lines().any(|l| l == line), "{line}: {effective} {out:?}");
    }
}
