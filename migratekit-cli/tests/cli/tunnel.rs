//! A copy through the tunnel between two processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::program;
use rustix::process::{Pid, Signal, kill_process};

use crate::run::{command, copy_report, number, random_image, run_within, succeed};

/// `tunnel serve`, and what it printed.
pub struct Serving {
    child: Child,
    port: String,
    pub fingerprint: String,
}

impl Serving {
    fn start(folder: &Path, exports: &[&str]) -> Self {
        Serving::start_at("127.0.0.1:0", folder, exports)
    }

    pub fn start_at(listen: &str, folder: &Path, exports: &[&str]) -> Self {
        let text = |name: &str| folder.join(name).display().to_string();
        let mut all = vec!["tunnel".to_owned(), "serve".into(), "--listen".into(), listen.to_owned()];
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

    /// Where it listens.
    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn address(&self, export: &str) -> String {
        format!("ssh://127.0.0.1:{}/{export}", self.port)
    }

    /// `kill -9`.
    pub fn kill(self) {}

    /// Ends it in order.
    pub fn stop(mut self) {
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
pub fn keys(folder: &Path) -> String {
    let key = folder.join("key").display().to_string();
    let made = Command::new(program("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-C", "vma", "-f", &key]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::copy(folder.join("key.pub"), folder.join("authorized")).unwrap();
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
