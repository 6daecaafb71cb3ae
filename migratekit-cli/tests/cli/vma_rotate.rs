//! A key is rotated under what runs by it: a copy and a standing tunnel go on. Ended between any two steps, the VMA has a key that comes
//! in, and the same command goes on.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use migratekit_core::testing::Rng;
use migratekit_core::tunnels::{PrivateKey, PublicKey};
use migratekit_core::vmas::{Oma, Rotating};
use rustix::process::Signal;
use serde_json::Value;

use crate::run::{assert_equal, command, random_image, roomy_dir, run_within, succeed, until, wait_allocated};
use crate::tunnel::Connecting;
use crate::vma::{Serving, Site};

const SIZE: u64 = 256 << 20;

fn rotate(key: &str) -> Value {
    serde_json::from_str(&succeed(&["vma", "rotate-key", "--key", key, "--output", "json"])).unwrap()
}

#[test]
fn a_rotation_under_a_running_copy_and_a_standing_tunnel_costs_one_reconnect() {
    let folder = roomy_dir(3 * SIZE);
    let site = Site::new(folder.path());
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    random_image(&source, SIZE, 90, &mut Rng::new(21));
    std::fs::File::create(&target).unwrap().set_len(SIZE).unwrap();
    let serving = site.serve(&format!("disk@vma-1={}", target.display()));
    let old = site.trust(&serving);
    let (far, to) = (format!("ssh://127.0.0.1:{}/disk", serving.port), format!("127.0.0.1:{}", serving.port));
    let (key, old_key) = (site.path("vma_key"), site.path("old_key"));
    std::fs::copy(&key, &old_key).unwrap();

    let standing = Connecting::start(&["--to", &to, "--key", &key, "--host-key-fingerprint", &serving.fingerprint, "--output", "json"]);
    standing.says("\"ready\"");
    // So slow that the rotation comes in its middle, on a busy machine too.
    let enter = ["--ssh-host-key", serving.fingerprint.as_str(), "--ssh-key"];
    let copy = [&["copy", source.to_str().unwrap(), &far, "--bandwidth", "16M"], &enter[..], &[&key]].concat();
    let mut copier = command(&copy).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(wait_allocated(&target, SIZE / 8, &mut copier), "the copy ended before the rotation");
    let rotated = rotate(&key);
    let new = rotated["fingerprint"].as_str().unwrap();
    assert!(copier.try_wait().unwrap().is_none(), "the copy ended before the rotation did");

    // The tunnel is cut once, and comes back.
    let lost: Value = serde_json::from_str(&standing.says("\"disconnected\"")).unwrap();
    assert_eq!(lost["kind"], "unreachable", "{lost}");
    let next: Value = serde_json::from_str(&standing.says("{")).unwrap();
    let again: Value = serde_json::from_str(&standing.says("{")).unwrap();
    assert_eq!((&next["state"], &next["attempt"], &again["state"]), (&"connecting".into(), &2.into(), &"ready".into()), "{next} {again}");
    // So is the copy; nobody says no to it.
    let out = copier.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("does not take this key"), "{:?}: {said}", out.status);
    assert_equal(&source, &target, "after a rotation");
    let by = |print: &str| site.logged(&["Connected {", &format!("PublicKey({print})")]);
    // All that had come by the old key, and the one that rotated.
    assert!((3..=by(&old) + 1).contains(&by(new)), "{} connections by the old key, {} by the new one", by(&old), by(new));
    println!("{} connections by the old key, {} by the new one", by(&old), by(new));

    let by_old = run_within(60, &[&["copy", source.to_str().unwrap(), &far], &enter[..], &[&old_key]].concat());
    assert_eq!(by_old.status.code(), Some(7), "{}", String::from_utf8_lossy(&by_old.stderr));
    assert_eq!(site.json(&["vma", "active"])[0]["enrollment"]["fingerprint"], *new);
    // Whether it is connected is known by the new key.
    let connected = |wanted: &'static str| {
        until(wanted, || site.json(&["vma", "active"])[0]["connection"]["status"] == wanted);
    };
    connected("connected");
    standing.stop(Signal::TERM);
    connected("disconnected");
}

/// A site with a VMA whose key is copied here and there.
struct Trusted<'a> {
    site: &'a Site<'a>,
    serving: &'a Serving,
    key: String,
}

impl Trusted<'_> {
    fn file(&self, more: &str) -> std::path::PathBuf {
        format!("{}{more}", self.key).into()
    }

    /// Whether the key in the file of this name comes in: asked by a verb, as a new process.
    fn comes_in(&self, more: &str) -> bool {
        let far = format!("ssh://127.0.0.1:{}/disk", self.serving.port);
        let (key, empty) = (format!("{}{more}", self.key), self.site.path("empty"));
        let out = run_within(60, &["copy", &empty, &far, "--ssh-key", &key, "--ssh-host-key", &self.serving.fingerprint]);
        assert!(matches!(out.status.code(), Some(0 | 7)), "{}", String::from_utf8_lossy(&out.stderr));
        out.status.success()
    }

    /// The first half of a rotation, up to where both keys come in; nothing is moved.
    fn begin(&self) {
        let known: Value = serde_json::from_str(&std::fs::read_to_string(self.file(".oma")).unwrap()).unwrap();
        let (host_key, enrollment): (PublicKey, _) =
            (known["host_key"].as_str().unwrap().parse().unwrap(), known["enrollment"].as_str().unwrap().parse().unwrap());
        let work = async {
            let old = PrivateKey::read(&self.file("")).await.unwrap();
            let (new, _) = PrivateKey::read_or_make(&self.file(".new")).await.unwrap();
            let rotating = Rotating { host_key: &host_key, enrollment: &enrollment, name: "vma-1", version: "1", old: &old, new: &new };
            Oma::at("127.0.0.1", self.serving.port.parse().unwrap()).rotate(&rotating).await.unwrap();
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    /// The same command again; after it the key is another, comes in, and nothing is left.
    fn goes_on(&self, step: &str) {
        let before = std::fs::read(self.file("")).unwrap();
        let rotated = rotate(&self.key);
        assert!(!self.file(".new").exists() && !self.file(".replaced").exists(), "{step}: something is left");
        assert_eq!(self.site.json(&["vma", "active"])[0]["enrollment"]["fingerprint"], rotated["fingerprint"], "{step}");
        assert!(self.comes_in(""), "{step}: the key does not come in");
        std::fs::write(self.file(".before"), before).unwrap();
    }
}

#[test]
fn a_rotation_that_is_ended_between_two_steps_leaves_a_key_that_comes_in_and_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    for name in ["empty", "target"] {
        std::fs::File::create(folder.path().join(name)).unwrap().set_len(1 << 20).unwrap();
    }
    let serving = site.serve(&format!("disk@vma-1={}", site.path("target")));
    site.trust(&serving);
    let vma = Trusted { site: &site, serving: &serving, key: site.path("vma_key") };

    // A new key was made, and nobody knows it.
    let made = std::process::Command::new(keygen()).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(vma.file(".new")).output();
    assert!(made.unwrap().status.success());
    assert!(vma.comes_in("") && !vma.comes_in(".new"));
    vma.goes_on("a key was made");

    // The OMA has taken it: both come in; the old one lies in its place.
    vma.begin();
    assert!(vma.comes_in(""));
    vma.goes_on("the OMA has taken it");

    // The old one lies beside itself.
    vma.begin();
    std::fs::hard_link(vma.file(""), vma.file(".replaced")).unwrap();
    assert!(vma.comes_in(""));
    vma.goes_on("the old one was linked");

    // The new one lies in its place, and has not come in.
    vma.begin();
    std::fs::hard_link(vma.file(""), vma.file(".replaced")).unwrap();
    std::fs::rename(vma.file(".new"), vma.file("")).unwrap();
    let rotated = rotate(&vma.key);
    assert!(vma.comes_in("") && !vma.file(".replaced").exists());
    assert_eq!(site.json(&["vma", "active"])[0]["enrollment"]["fingerprint"], rotated["fingerprint"]);

    // A new one lies in its place that the OMA does not take: it says so, and the old one is back.
    std::fs::rename(vma.file(""), vma.file(".replaced")).unwrap();
    std::fs::copy(vma.file(".before"), vma.file("")).unwrap();
    std::fs::set_permissions(vma.file(""), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!vma.comes_in(""));
    let out = run_within(60, &["vma", "rotate-key", "--key", &vma.key]);
    assert_eq!(out.status.code(), Some(7), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(vma.comes_in("") && !vma.file(".replaced").exists());
    vma.goes_on("the old one was put back");
}

fn keygen() -> String {
    migratekit_core::testing::peer::program("ssh-keygen")
}
