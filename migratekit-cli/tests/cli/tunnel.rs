//! A copy through the tunnel between two processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::{free_port, program};
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
        Serving::start_at("127.0.0.1:0", folder, exports)
    }

    /// At this address, which is one of the loopback.
    pub(crate) fn start_at(listen: &str, folder: &Path, exports: &[&str]) -> Self {
        let all: Vec<&str> = exports.iter().flat_map(|export| ["--export", *export]).collect();
        Serving::with(folder, listen.rsplit(':').next().unwrap(), &all)
    }

    /// At this port, with more options.
    fn with(folder: &Path, port: &str, more: &[&str]) -> Self {
        let text = |name: &str| folder.join(name).display().to_string();
        let mut all = vec!["tunnel".to_owned(), "serve".into(), "--listen".into(), format!("127.0.0.1:{port}")];
        all.extend(["--host-key".into(), text("host_key"), "--authorized-keys".into(), text("authorized")]);
        all.extend(more.iter().map(|word| (*word).to_owned()));
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

    /// `kill -9`.
    pub(crate) fn kill(self) {}

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

/// `tunnel connect`, with its lines as they come.
pub(crate) struct Connecting {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Connecting {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = command(&[&["tunnel", "connect"], args].concat()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (said, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Connecting { child, lines }
    }

    /// The next line that says this.
    pub(crate) fn says(&self, what: &str) -> String {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut before = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
            if line.contains(what) {
                return line;
            }
            before.push(line);
        }
        panic!("it does not say {what:?}, but {before:#?}")
    }

    pub(crate) fn stop(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.says("stopped");
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{signal:?}");
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Echoes at a free port, as a service of another process.
pub(crate) fn echo_service() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket).and_then(|_| socket.shutdown(std::net::Shutdown::Write)));
        }
    });
    address
}

/// Words to an echo and back.
pub(crate) fn talk(address: &str) {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.write_all(b"are you there").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = String::new();
    socket.read_to_string(&mut back).unwrap();
    assert_eq!(back, "are you there", "{address}");
}

#[test]
fn a_vma_keeps_its_tunnel_up_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let key = keys(folder.path());
    let (service, agent, reverse) = (echo_service(), echo_service(), free_port());
    let port = service.rsplit_once(':').unwrap().1.to_owned();
    let listen = format!("127.0.0.1:{reverse}");
    let at = free_port().to_string();
    let serving = Serving::with(folder.path(), &at, &["--permit-open", &service, "--permit-listen", &listen]);
    let (to, print) = (format!("127.0.0.1:{}", serving.port), serving.fingerprint.clone());
    let enter = ["--to", to.as_str(), "--key", key.as_str(), "--host-key-fingerprint", print.as_str()];
    let forward = format!("127.0.0.1:0:127.0.0.1:{port}");

    let connecting = Connecting::start(&[&enter[..], &["-L", &forward, "-R", &agent]].concat());
    let line = connecting.says("listening on");
    let local = line.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(connecting.says("ready"), format!("ready as vma, reached at port {reverse} of the server"));
    talk(&local);
    talk(&listen);
    // The server comes again, at the same address and with the same key: so does the tunnel.
    serving.stop();
    connecting.says("disconnected: ");
    let serving = Serving::with(folder.path(), &at, &["--permit-open", &service, "--permit-listen", &listen]);
    connecting.says("ready");
    talk(&local);
    talk(&listen);
    connecting.stop(Signal::INT);

    // For programs: an object for each state.
    let objects = Connecting::start(&[&enter[..], &["-L", &forward, "--output", "json"]].concat());
    let ready: serde_json::Value = serde_json::from_str(&objects.says("\"ready\"")).unwrap();
    assert_eq!((&ready["vma"], &ready["version"], &ready["refused"]), (&"vma".into(), &1.into(), &serde_json::json!([])));
    objects.stop(Signal::TERM);

    // What the server says no to ends it with the code of a refusal, and says what; a taken port and a bad forward likewise.
    let ends = |more: &[&str], code: i32, says: &str| {
        let out = run_within(60, &[&["tunnel", "connect"], more].concat());
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(code) && error.contains(says), "{more:?}: {:?}: {error}", out.status);
    };
    ends(&[&enter[..], &["-L", "127.0.0.1:0:127.0.0.1:22"]].concat(), 7, "nothing is served at this port");
    ends(&[&enter[..], &["-R", "127.0.0.1:9:127.0.0.1:22"]].concat(), 7, "refuses to listen");
    ends(&[&enter[..], &["-L", &format!("{service}:127.0.0.1:{port}")]].concat(), 6, "in use");
    ends(&[&enter[..], &["-L", "127.0.0.1:1:192.0.2.1:22"]].concat(), 3, "a port of the server's loopback");
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    ends(&["--to", &to, "--key", &key, "--host-key-fingerprint", other], 7, "pinned");
    std::fs::write(folder.path().join("authorized"), "").unwrap();
    ends(&enter, 7, "does not take this key");
    serving.stop();
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
