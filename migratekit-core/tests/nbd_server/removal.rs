//! Exports come and go while clients work.

use std::sync::Arc;

use migratekit_core::ErrorKind;
use migratekit_core::block::{BlockInfo, MemoryDisk};
use migratekit_core::nbd::wire::{option, option_reply};
use migratekit_core::nbd::{Force, ServerConfig};

use crate::raw::{Raw, Said};
use crate::rig::{Gated, Rig, Shared, wait_for};

#[test]
fn a_connected_writer_stands_in_the_way_and_is_named() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 4096));
    let mut writer = Raw::simple(rig.port, "disk");
    let address = writer.stream.local_addr().unwrap().to_string();
    let e = rig.runtime.block_on(rig.server.remove("disk", Force::No)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    assert_eq!(e.context_value("clients"), Some(address.as_str()));
    writer.write(1, 0, b"still here");
    assert_eq!(writer.reply(), (1, Said::Simple(0)));
    drop(writer);
    wait_for("the writer to be gone", || rig.connections().is_empty());
    rig.runtime.block_on(rig.server.remove("disk", Force::No)).unwrap();
    assert_eq!(rig.runtime.block_on(rig.server.remove("disk", Force::No)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Raw::options(rig.port).info(option::GO, "disk", &[]).unwrap_err().0, option_reply::ERR_UNKNOWN);
}

#[test]
fn force_closes_the_writer_and_waits_for_what_it_had_under_way() {
    let gate = Gated::new(1 << 20, false, false);
    let rig = Rig::with_disk(ServerConfig::default(), Shared(Arc::clone(&gate)));
    let mut writer = Raw::simple(rig.port, "disk");
    writer.write(1, 0, &[1; 4096]);
    writer.write(2, 8192, &[2; 4096]);
    // Half a payload: it must never land.
    writer.request(1, 0, 3, 16384, 4096);
    writer.send(&[3; 100]);
    wait_for("two writes to be under way", || gate.waiting() == 2 && rig.connections()[0].requests == 3);
    let server = rig.server.clone();
    let removal = rig.runtime.spawn(async move { server.remove("disk", Force::Yes).await });
    wait_for("the export to be off the list", || rig.server.exports().is_empty());
    assert_eq!(Raw::options(rig.port).info(option::GO, "disk", &[]).unwrap_err().0, option_reply::ERR_UNKNOWN);
    assert!(!removal.is_finished(), "two writes are under way");
    gate.set_open(true);
    rig.runtime.block_on(removal).unwrap().unwrap();
    assert_eq!(gate.written.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert!(writer.is_closed());
    // Under the same name comes another export.
    rig.add("disk", MemoryDisk::new("new", 8192));
    assert_eq!(Raw::simple(rig.port, "disk").read(0, 1), [0]);
}

#[test]
fn a_reader_of_a_read_only_disk_is_closed_without_force() {
    let info = BlockInfo { read_only: true, ..BlockInfo::plain("ro", 4096) };
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::with_info(info));
    let mut reader = Raw::simple(rig.port, "disk");
    assert!(!rig.connections()[0].writer);
    rig.runtime.block_on(rig.server.remove("disk", Force::No)).unwrap();
    assert!(reader.is_closed());
}

#[test]
fn other_clients_work_on_while_exports_come_and_go() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 1 << 20));
    let mut steady = Raw::simple(rig.port, "disk");
    for round in 0..50u64 {
        let name = format!("volume-{round}");
        rig.add(&name, MemoryDisk::new("v", 65536));
        assert_eq!(rig.server.add(&name, crate::rig::plain(MemoryDisk::new("v", 1))).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let mut brief = Raw::simple(rig.port, &name);
        brief.write(round, 0, &round.to_be_bytes());
        steady.write(round, round * 8, &round.to_be_bytes());
        assert_eq!(brief.reply().1, Said::Simple(0));
        assert_eq!(steady.reply(), (round, Said::Simple(0)));
        rig.runtime.block_on(rig.server.remove(&name, Force::Yes)).unwrap();
        assert!(brief.is_closed());
        assert_eq!(steady.read(round * 8, 8), round.to_be_bytes());
    }
    assert_eq!(rig.server.exports(), ["disk"]);
    assert_eq!(rig.connections().len(), 1);
}

#[test]
fn names_of_ours_are_reserved() {
    let rig = Rig::new(ServerConfig::default());
    let e = rig.server.add("migratekit:x", crate::rig::plain(MemoryDisk::new("m", 1))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}
