//! Against qemu-nbd, nbd-server and the crate `nbd`.

use std::io::{Cursor, Seek, SeekFrom, Write};
use std::process::Command;

use migratekit_core::block::{BlockRead, BlockWrite, Persist};
use migratekit_core::error::ErrorKind;
use migratekit_core::nbd::client::{Client, ConnectOptions};
use migratekit_core::nbd::uri::Uri;
use migratekit_core::testing::peer::{Peer, free_port, program};
use migratekit_core::units::{ByteRange, MIB};

use crate::nbdkit::exercise;
use crate::servers::{bytes, connect, options};

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

fn run(name: &str, args: &[&str]) {
    let output = Command::new(program(name)).args(args).output().unwrap();
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn qemu_with_qcow2_and_a_dirty_bitmap() {
    let dir = tempfile::tempdir().unwrap();
    let (image, socket) = (dir.path().join("disk.qcow2"), dir.path().join("socket"));
    let (image, socket_text) = (image.to_str().unwrap(), socket.to_str().unwrap());
    run("qemu-img", &["create", "-q", "-f", "qcow2", image, "64M"]);
    run("qemu-img", &["bitmap", "--add", image, "b0"]);
    let server = Peer::start("qemu-nbd", &["-t", "-e", "8", "-f", "qcow2", "-x", "disk", "-D", "for people", "-k", socket_text, image]);
    let server = server.wait_path(&socket);
    let client = connect(&Uri::unix(&socket, "disk")).await;
    assert_eq!(client.server_description(), Some("for people"));
    assert_eq!((client.info().min_block, client.info().max_request, client.connections()), (1, 32 << 20, 4));
    exercise(&client).await;
    client.write(32 * MIB, bytes(4, 65536), Persist::Durable).await.unwrap();
    let error = Client::connect(options(&Uri::unix(&socket, "other"))).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    client.close().await.unwrap();
    drop(server);
    std::fs::remove_file(&socket).ok();
    let name = "qemu:dirty-bitmap:b0";
    let args = ["-r", "-t", "-e", "8", "-f", "qcow2", "-x", "disk", "-B", "b0", "-k", socket_text, image];
    let _server = Peer::start("qemu-nbd", &args).wait_path(&socket);
    let wanted = ConnectOptions { contexts: vec![name.to_owned()], list_contexts: true, ..options(&Uri::unix(&socket, "disk")) };
    let client = Client::connect(wanted).await.unwrap();
    assert!(client.facts().offered_contexts.iter().any(|c| c == name), "{:?}", client.facts());
    let dirty = client.status(name, range(0, 64 * MIB)).await.unwrap();
    assert!(dirty.iter().any(|(r, flags)| *flags == 1 && r.contains(range(32 * MIB, 65536))), "{dirty:?}");
    assert!(dirty.iter().any(|(r, flags)| *flags == 0 && r.contains(range(60 * MIB, MIB))), "{dirty:?}");
    assert_eq!(client.read(range(32 * MIB, 65536)).await.unwrap(), bytes(4, 65536));
    assert!(client.info().read_only);
    assert_eq!(client.status("qemu:dirty-bitmap:b1", range(0, MIB)).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(client.ledger(range(0, MIB)).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn nbd_server_has_no_structured_replies() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, conf, port) = (dir.path().join("disk"), dir.path().join("conf"), free_port());
    std::fs::File::create(&disk).unwrap().set_len(16 * MIB).unwrap();
    let text = format!(
        "[generic]\nlistenaddr = 127.0.0.1\nport = {port}\nallowlist = true\n[disk]\nexportname = {}\nflush = true\nfua = true\ntrim = true\n",
        disk.display()
    );
    std::fs::write(&conf, text).unwrap();
    // -d: stays in the foreground, and serves one client.
    let _server = Peer::start("nbd-server", &["-d", "-C", conf.to_str().unwrap()]).wait_port(port);
    let one = ConnectOptions { connections: 1, ..options(&Uri::tcp("127.0.0.1", port, "disk")) };
    let client = Client::connect(one).await.unwrap();
    assert!(!client.facts().structured && !client.info().can.extents);
    exercise(&client).await;
    client.flush().await.unwrap();
    assert_eq!(client.read(range(0, 16 * MIB)).await.unwrap(), std::fs::read(&disk).unwrap());
}

#[tokio::test]
async fn the_crate_nbd_knows_only_export_name() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let export = |_: &str| Ok(nbd::Export::<()> { size: 16 * MIB, send_flush: true, ..nbd::Export::default() });
        nbd::server::handshake(&mut stream, export).unwrap();
        let mut disk = Cursor::new(vec![0; 16 * 1024 * 1024]);
        disk.seek(SeekFrom::Start(MIB)).unwrap();
        disk.write_all(b"there").unwrap();
        let _ = nbd::server::transmission(&mut stream, &mut disk);
    });
    let client = connect(&Uri::tcp("127.0.0.1", port, "any")).await;
    assert!(!client.facts().by_go && !client.facts().structured);
    assert_eq!((client.info().size, client.connections()), (16 * MIB, 1));
    assert_eq!(client.read(range(MIB, 5)).await.unwrap(), b"there"[..]);
    exercise(&client).await;
    client.close().await.unwrap();
    server.join().unwrap();
}
