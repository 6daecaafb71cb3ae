//! The catalog's database goes away under `tunnel serve` and comes back: what stands goes on, what was cut meanwhile comes in again, and
//! the rows of connections are right after.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use migratekit_core::testing::Rng;
use migratekit_core::testing::mariadb::MariaDb;
use rustix::process::Signal;
use serde_json::Value;

use crate::run::{allocated, assert_equal, command, random_image, roomy_dir, run_within, succeed, until, wait_allocated};
use crate::tunnel::{Connecting, echo_service, talk};
use crate::vma::Site;

const SIZE: u64 = 256 << 20;

/// A way to a port of the loopback that can be cut.
struct Way {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, open) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&open);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                kept.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut &from, &mut &to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Way { port, open }
    }

    fn cut(&self) {
        for socket in self.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// What happened to the VMA since its approval, oldest first.
fn events(site: &Site<'_>) -> Vec<String> {
    let lines = site.json(&["vma", "audit"]);
    let mut events: Vec<String> = lines.as_array().unwrap().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    events.reverse();
    let approved = events.iter().position(|event| event == "approval").unwrap();
    events.split_off(approved + 1)
}

fn the_catalog_goes_and_comes_back(go: fn(&mut MariaDb)) {
    let mut database = MariaDb::start();
    database.create_database("catalog");
    let folder = roomy_dir(3 * SIZE);
    let site = Site::on(folder.path(), database.url("catalog"));
    succeed(&site.with_place(&["db", "migrate"]));
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    random_image(&source, SIZE, 90, &mut Rng::new(31));
    std::fs::File::create(&target).unwrap().set_len(SIZE).unwrap();
    let (service, export) = (echo_service(), format!("disk@vma-1={}", target.display()));
    let serving = site.serve_with(&["--export", &export, "--permit-open", &service]);
    site.trust(&serving);

    let way = Way::to(serving.port.parse().unwrap());
    let (to, far, key) = (format!("127.0.0.1:{}", way.port), format!("ssh://127.0.0.1:{}/disk", serving.port), site.path("vma_key"));
    let forward = format!("127.0.0.1:0:{service}");
    let standing = Connecting::start(&[
        "--to",
        &to,
        "--key",
        &key,
        "--host-key-fingerprint",
        &serving.fingerprint,
        "-L",
        &forward,
        "--output",
        "json",
    ]);
    let listening: Value = serde_json::from_str(&standing.says("listening")).unwrap();
    let local = listening["listen"].as_str().unwrap().to_owned();
    standing.says("\"ready\"");
    let connected = |wanted: &'static str| {
        until(wanted, || site.json(&["vma", "active"])[0]["connection"]["status"] == wanted);
    };
    connected("connected");
    let copy = ["copy", source.to_str().unwrap(), &far, "--bandwidth", "16M", "--ssh-key", &key, "--ssh-host-key", &serving.fingerprint];
    let mut copier = command(&copy).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(wait_allocated(&target, SIZE / 16, &mut copier), "the copy ended too soon");

    // What is in goes on.
    go(&mut database);
    let before = allocated(&target);
    until("the copy goes on", || allocated(&target) >= before + SIZE / 16);
    assert!(copier.try_wait().unwrap().is_none(), "the copy ended too soon");
    // A login that cannot be judged does not come in.
    let other = site.path("aside");
    let out = run_within(120, &["copy", &far, &other, "--ssh-key", &key, "--ssh-host-key", &serving.fingerprint]);
    assert!(!out.status.success() && out.status.code().is_some(), "{out:?}");
    let out = copier.wait_with_output().unwrap();
    assert!(out.status.success(), "{:?}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    assert_equal(&source, &target, "while the catalog is away");
    // What is cut goes on asking, and is let in when that can be told.
    way.cut();
    let lost: Value = serde_json::from_str(&standing.says("\"disconnected\"")).unwrap();
    assert_eq!(lost["kind"], "unreachable", "{lost}");
    standing.says("\"disconnected\"");
    database.restart();
    standing.says("\"ready\"");
    talk(&local);
    until("all of it is written", || events(&site) == ["connection", "disconnection", "connection"]);
    connected("connected");
    standing.stop(Signal::TERM);
    connected("disconnected");
    assert_eq!(events(&site).last().map(String::as_str), Some("disconnection"));
}

#[test]
fn a_catalog_that_is_stopped_and_started_under_a_serving_tunnel_ends_nothing() {
    the_catalog_goes_and_comes_back(MariaDb::stop);
}

#[test]
fn a_catalog_that_is_killed_and_started_under_a_serving_tunnel_ends_nothing() {
    the_catalog_goes_and_comes_back(MariaDb::kill);
}
