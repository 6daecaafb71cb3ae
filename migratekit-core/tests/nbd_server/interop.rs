//! With the programs people use.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;

use migratekit_core::block::{BlockInfo, FileDisk, MemoryDisk, OpenOptions};
use migratekit_core::nbd::ServerConfig;
use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::program;

use crate::rig::{Rig, attempt, python, run};

/// A size that is not a multiple of anything.
const ODD: u64 = 12_000_123;

/// An image with data, zeros and holes.
fn image(size: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut rng = Rng::new(7);
    let mut block = vec![0; 100_000];
    for part in 0..40u64 {
        if part % 3 != 1 {
            rng.fill(&mut block);
            file.as_file_mut().seek(SeekFrom::Start(part * 300_000)).unwrap();
            file.write_all(&block).unwrap();
        }
    }
    file.as_file().set_len(size).unwrap();
    file
}

/// A server with `from` (the image, read-only) and `to` (an empty file of the same size).
fn pair(size: u64) -> (Rig, tempfile::NamedTempFile, tempfile::NamedTempFile) {
    let rig = Rig::new(ServerConfig::default());
    let (from, to) = (image(size), tempfile::NamedTempFile::new().unwrap());
    to.as_file().set_len(size).unwrap();
    for (name, file, options) in [("from", &from, OpenOptions::read_only()), ("to", &to, OpenOptions::default())] {
        let disk = rig.runtime.block_on(FileDisk::open(file.path(), options)).unwrap();
        rig.add(name, disk);
    }
    (rig, from, to)
}

fn same(a: &tempfile::NamedTempFile, b: &tempfile::NamedTempFile) -> bool {
    fs::read(a.path()).unwrap() == fs::read(b.path()).unwrap()
}

#[test]
fn nbdinfo() {
    let (rig, from, _to) = pair(ODD);
    let info: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &rig.uri("from")])).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!((&info["structured"], &info["TLS"]), (&true.into(), &false.into()));
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], ODD);
    assert_eq!((&export["is_read_only"], &export["can_multi_conn"], &export["can_df"]), (&true.into(), &true.into(), &true.into()));
    assert_eq!((&export["can_trim"], &export["can_zero"]), (&false.into(), &false.into()));
    assert_eq!(export["contexts"][0], "base:allocation");
    assert_eq!(export["description"], "a disk of a test");

    let list: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--list", "--json", &rig.uri("")])).unwrap();
    let names: Vec<&str> = list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["from", "to"]);

    let map: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--map", "--json", &rig.uri("from")])).unwrap();
    let map = map.as_array().unwrap();
    let total: u64 = map.iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(total, ODD);
    assert!(map.iter().any(|e| e["type"] == 3) && map.iter().any(|e| e["type"] == 0));
    // Nothing that reads as other than zero lies in what is called zero.
    let content = fs::read(from.path()).unwrap();
    for extent in map.iter().filter(|e| e["type"].as_u64().unwrap() & 2 != 0) {
        let (at, length) = (extent["offset"].as_u64().unwrap() as usize, extent["length"].as_u64().unwrap() as usize);
        assert!(content[at..at + length].iter().all(|b| *b == 0));
    }
    assert!(!attempt("nbdinfo", &[&rig.uri("nothing")]).status.success());
    run("nbdinfo", &["--size", &format!("nbd+unix:///from?socket={}", rig.socket.display())]);
}

#[test]
fn nbdcopy_in_both_directions() {
    let (rig, from, to) = pair(ODD);
    run("nbdcopy", &["--flush", from.path().to_str().unwrap(), &rig.uri("to")]);
    assert!(same(&from, &to));
    let back = tempfile::NamedTempFile::new().unwrap();
    run("nbdcopy", &[&rig.uri("from"), back.path().to_str().unwrap()]);
    assert!(same(&from, &back));
    // From the server to the server, over a Unix socket, in small requests.
    let (rig, from, to) = pair(ODD);
    let unix = |name: &str| format!("nbd+unix:///{name}?socket={}", rig.socket.display());
    run("nbdcopy", &["--request-size=4096", "--requests=64", &unix("from"), &unix("to")]);
    assert!(same(&from, &to));
}

#[test]
fn libnbd_in_python() {
    let mut content = vec![0; 1 << 20];
    content[..4096].fill(7);
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::from_bytes("m", &content));
    let said = python(
        &rig.uri("disk"),
        "
assert h.get_structured_replies_negotiated() and h.can_df() and h.can_meta_context('base:allocation')
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
assert h.pread(8, 0) == b'\\x07' * 8
kinds = []
h.pread_structured(1 << 20, 0, lambda b, at, kind, err: kinds.append((at, len(b), kind)))
assert kinds == [(0, 1 << 20, nbd.READ_DATA)], kinds
kinds.clear()
h.pread_structured(1 << 20, 0, lambda b, at, kind, err: kinds.append(kind), nbd.CMD_FLAG_DF)
assert kinds == [nbd.READ_DATA]
extents = []
h.block_status(1 << 20, 0, lambda name, at, e, err: extents.append((name, at, e)))
assert extents == [('base:allocation', 0, [65536, 0, (1 << 20) - 65536, 3])], extents
extents.clear()
h.block_status(1 << 20, 0, lambda name, at, e, err: extents.append(e), nbd.CMD_FLAG_REQ_ONE)
assert extents == [[65536, 0]]
h.pwrite(b'x' * 512, 512, nbd.CMD_FLAG_FUA)
h.zero(512, 1024, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
h.trim(65536, 131072)
h.flush()
assert h.pread(1536, 0) == b'\\x07' * 512 + b'x' * 512 + b'\\0' * 512
h.set_strict_mode(0)
for call, want in [
    (lambda: h.pread(2, (1 << 20) - 1), 'EINVAL'),
    (lambda: h.pwrite(b'ab', (1 << 20) - 1), 'ENOSPC'),
    (lambda: h.zero(2, (1 << 20) - 1), 'ENOSPC'),
    (lambda: h.trim(2, (1 << 20) - 1), 'EINVAL'),
]:
    try:
        call()
        raise SystemExit('accepted')
    except nbd.Error as e:
        assert e.errno == want, (e.errno, want)
print('done')",
    );
    assert_eq!(said.trim(), "done");
}

#[test]
fn structured_holes_in_python() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::from_bytes("m", &[&[7; 65536][..], &[0; 65536]].concat()));
    let uri = rig.uri("disk");
    // This client did not ask for block status, so reads tell it the holes.
    let script = format!(
        "import nbd\nh = nbd.NBD()\nh.connect_uri('{uri}')\nkinds = []\n\
         h.pread_structured(131072, 0, lambda b, at, kind, err: kinds.append((at, kind)))\nprint(kinds == [(0, nbd.READ_DATA), (65536, nbd.READ_HOLE)])\n"
    );
    let output = std::process::Command::new("/usr/bin/python3").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "True", "{output:?}");
}

#[test]
fn qemu_img() {
    // qemu rounds sizes up to its sectors, and cannot write a tail that is none.
    let (rig, from, _to) = pair(ODD.next_multiple_of(512));
    let path = from.path().to_str().unwrap();
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", path, &rig.uri("to")]);
    assert!(run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &rig.uri("from"), &rig.uri("to")]).contains("identical"));
    let map: serde_json::Value = serde_json::from_str(&run("qemu-img", &["map", "--output=json", "-f", "raw", &rig.uri("from")])).unwrap();
    assert!(map.as_array().unwrap().iter().any(|e| e["data"] == false) && map.as_array().unwrap().iter().any(|e| e["data"] == true));
    let out = tempfile::NamedTempFile::new().unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &rig.uri("from"), out.path().to_str().unwrap()]);
    assert!(run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", out.path().to_str().unwrap(), &rig.uri("to")]).contains("identical"));
}

#[test]
fn qemu_io_with_parallel_writes_zeroes_discards_and_tails() {
    for size in [1_000_003u64, 1 << 20] {
        let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", size));
        let tail = size - 103;
        let mut commands: Vec<String> = (0..8).map(|i| format!("aio_write -P {} {} 64k", i + 1, i * 65536)).collect();
        commands.push("aio_flush".into());
        commands.extend((0..8).map(|i| format!("read -P {} {} 64k", i + 1, i * 65536)));
        commands.extend([
            format!("write -P 9 {tail} 103"),
            format!("read -P 9 {tail} 103"),
            "write -z 65536 65536".into(),
            "read -P 0 65536 65536".into(),
            "write -z -u 131072 65536".into(),
            "read -P 0 131072 65536".into(),
            "discard 196608 65536".into(),
            "write -f -P 5 1 511".into(),
            "read -P 5 1 511".into(),
            "flush".into(),
        ]);
        let uri = rig.uri("disk");
        let mut args = vec!["-f", "raw"];
        for command in &commands {
            args.extend(["-c", command]);
        }
        args.push(&uri);
        let said = run("qemu-io", &args);
        assert!(!said.contains("verification failed"), "{said}");
    }
}

#[test]
fn fio_writes_and_verifies() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 8 << 20));
    let folder = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(program("fio"))
        .current_dir(folder.path())
        .args(["--name=verify", "--ioengine=nbd", &format!("--uri={}", rig.uri("disk")), "--rw=randwrite", "--bsrange=512-64k"])
        .args(["--blockalign=512", "--iodepth=16", "--size=8M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"])
        .output()
        .unwrap();
    assert!(status.status.success(), "{}{}", String::from_utf8_lossy(&status.stdout), String::from_utf8_lossy(&status.stderr));
}

#[test]
fn the_crate_nbd_by_the_old_way_in() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 1 << 20));
    let mut stream = TcpStream::connect(("127.0.0.1", rig.port)).unwrap();
    let export = nbd::client::handshake(&mut stream, b"disk").unwrap();
    assert_eq!(export.size, 1 << 20);
    let mut client = nbd::client::NbdClient::new(&mut stream, &export);
    client.seek(SeekFrom::Start(70_000)).unwrap();
    client.write_all(&[9; 100_000]).unwrap();
    client.flush().unwrap();
    client.seek(SeekFrom::Start(69_999)).unwrap();
    let mut back = vec![0; 100_002];
    client.read_exact(&mut back).unwrap();
    assert_eq!((back[0], back[100_001]), (0, 0));
    assert!(back[1..100_001].iter().all(|b| *b == 9));
}

#[test]
fn block_sizes_are_kept_by_those_who_ask() {
    let mut info = BlockInfo { min_block: 4096, ..BlockInfo::plain("m", 1 << 20) };
    info.can.flush = true;
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::with_info(info));
    let said = run("qemu-io", &["-f", "raw", "-c", "write -P 3 1 511", "-c", "read -P 3 1 511", &rig.uri("disk")]);
    assert!(!said.contains("verification failed"), "{said}");
}
