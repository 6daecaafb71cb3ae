//! The handshake, option by option, by a client of our own.

use migratekit_core::block::{BlockInfo, MemoryDisk};
use migratekit_core::nbd::handshake::{InfoReply, InfoRequest, decode_list_entry};
use migratekit_core::nbd::wire::{option, option_reply, transmission as t};
use migratekit_core::nbd::{Limits, ServerConfig};

use crate::raw::Raw;
use crate::rig::Rig;

fn rig() -> Rig {
    Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 1 << 20))
}

#[test]
fn an_empty_server_lists_nothing_and_exports_come_and_go() {
    let rig = Rig::new(ServerConfig::default());
    let mut raw = Raw::options(rig.port);
    assert_eq!(raw.option(option::LIST, b""), [(option_reply::ACK, vec![])]);
    rig.add("b", MemoryDisk::new("m", 1));
    rig.add("a", MemoryDisk::new("m", 2));
    let listed = raw.option(option::LIST, b"");
    let names: Vec<_> = listed.iter().filter(|(r, _)| *r == option_reply::SERVER).map(|(_, d)| decode_list_entry(d).unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(raw.info(option::INFO, "c", &[]).unwrap_err().0, option_reply::ERR_UNKNOWN);
    assert_eq!(raw.verdict(option::ABORT, b"ignored").0, option_reply::ACK);
    assert!(raw.is_closed());
}

#[test]
fn info_tells_what_was_asked_and_go_enters() {
    let rig = rig();
    let mut raw = Raw::options(rig.port);
    let flags = t::HAS_FLAGS | t::SEND_FLUSH | t::SEND_FUA | t::SEND_TRIM | t::SEND_WRITE_ZEROES | t::CAN_MULTI_CONN | t::SEND_FAST_ZERO;
    let size = InfoReply::Export { size: 1 << 20, flags };
    let blocks = InfoReply::BlockSize { minimum: 1, preferred: 4096, maximum: 32 << 20 };
    assert_eq!(raw.info(option::INFO, "disk", &[]).unwrap(), [size.clone(), blocks.clone()]);
    let told = raw.info(option::INFO, "disk", &[1, 2, 3, 99]).unwrap();
    assert_eq!(told, [size, blocks, InfoReply::Name("disk".into()), InfoReply::Description("a disk of a test".into())]);
    raw.go("disk");
    assert_eq!(raw.read(0, 10), [0; 10]);
}

#[test]
fn export_name_is_the_old_way_in() {
    let rig = rig();
    for (flags, zeroes) in [(3u32, 0), (1, 124), (0, 124)] {
        let mut raw = Raw::connect(rig.port);
        raw.send(&flags.to_be_bytes());
        raw.send(&migratekit_core::nbd::wire::encode_option(option::EXPORT_NAME, b"disk"));
        assert_eq!(raw.take(8), (1u64 << 20).to_be_bytes());
        raw.take(2);
        assert_eq!(raw.take(zeroes), vec![0; zeroes]);
        assert_eq!(raw.read(5, 3), [0; 3]);
    }
    let mut raw = Raw::options(rig.port);
    raw.send(&migratekit_core::nbd::wire::encode_option(option::EXPORT_NAME, b"other"));
    assert!(raw.is_closed(), "an unknown name has no other answer");
}

#[test]
fn a_block_size_the_client_does_not_ask_for_is_not_forced_on_it() {
    let info = BlockInfo { min_block: 4096, ..BlockInfo::plain("m", 1 << 20) };
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::with_info(info));
    let mut raw = Raw::options(rig.port);
    assert_eq!(raw.info(option::GO, "disk", &[]).unwrap_err().0, option_reply::ERR_BLOCK_SIZE_REQD);
    raw.go("disk");
    assert_eq!(raw.ask(0, 0, 512, 512).errno(), 22);
    let mut raw = Raw::options(rig.port);
    raw.send(&migratekit_core::nbd::wire::encode_option(option::EXPORT_NAME, b"disk"));
    assert!(raw.is_closed());
}

#[test]
fn wrong_options_get_the_answer_the_protocol_has_for_them() {
    let rig = rig();
    let mut raw = Raw::options(rig.port);
    for (code, data, reply) in [
        (option::LIST, &b"x"[..], option_reply::ERR_INVALID),
        (option::STRUCTURED_REPLY, b"x", option_reply::ERR_INVALID),
        (option::STARTTLS, b"x", option_reply::ERR_INVALID),
        (option::STARTTLS, b"", option_reply::ERR_POLICY),
        (option::EXTENDED_HEADERS, b"", option_reply::ERR_UNSUP),
        (0xdead, b"data", option_reply::ERR_UNSUP),
        (4, b"", option_reply::ERR_UNSUP),
        (option::GO, b"", option_reply::ERR_INVALID),
        (option::INFO, b"\0\0\0\x09disk\0\0", option_reply::ERR_INVALID),
        (option::SET_META_CONTEXT, b"\0\0\0\x04disk\0\0\0\0", option_reply::ERR_INVALID),
    ] {
        let (said, text) = raw.verdict(code, data);
        assert_eq!(said, reply, "option {code}: {text}");
        assert!(!text.is_empty(), "option {code}");
    }
    assert_eq!(raw.verdict(option::STRUCTURED_REPLY, b"").0, option_reply::ACK);
    assert_eq!(raw.verdict(option::SET_META_CONTEXT, b"\0\0\0\x04disk\0\0\0\x01").0, option_reply::ERR_INVALID);
    raw.go("disk");
}

#[test]
fn who_breaks_the_handshake_is_closed() {
    let rig = rig();
    let flags_unknown = [4u32.to_be_bytes().to_vec(), 0x8000_0003u32.to_be_bytes().to_vec()];
    for flags in flags_unknown {
        let mut raw = Raw::connect(rig.port);
        raw.send(&flags);
        assert!(raw.is_closed());
    }
    let mut raw = Raw::options(rig.port);
    raw.send(b"NOTANOPTION.....");
    assert!(raw.is_closed());
    let mut raw = Raw::connect(rig.port);
    raw.send(&0u32.to_be_bytes());
    raw.send(&migratekit_core::nbd::wire::encode_option(option::LIST, b""));
    assert!(raw.is_closed(), "options need fixed newstyle");
}

#[test]
fn bounds_of_the_handshake_hold() {
    let mut limits = Limits::default();
    limits.handshake.options = 5;
    limits.handshake.option = 200;
    limits.handshake.name = 50;
    limits.handshake.meta_queries = 2;
    let rig = Rig::new(ServerConfig { limits, ..ServerConfig::default() });
    let name = "n".repeat(50);
    rig.add(&name, MemoryDisk::new("m", 4096));
    assert!(rig.server.add(&"n".repeat(51), crate::rig::plain(MemoryDisk::new("m", 1))).is_err());

    // Names: 50 bytes are found, 51 are too big.
    let mut raw = Raw::options(rig.port);
    assert!(raw.info(option::INFO, &name, &[]).is_ok());
    assert_eq!(raw.info(option::INFO, &"n".repeat(51), &[]).unwrap_err().0, option_reply::ERR_TOO_BIG);
    // Data of an option: 200 bytes are read, 201 are skipped and refused; then the connection goes on.
    let info = |requests: usize| InfoRequest { name: String::new(), requests: vec![9; requests] }.encode();
    assert_eq!(info(97).len(), 200);
    assert_eq!(raw.verdict(option::INFO, &info(97)).0, option_reply::ERR_UNKNOWN);
    assert_eq!(raw.verdict(option::INFO, &[0; 201]).0, option_reply::ERR_TOO_BIG);
    // Options: the fifth is answered, the sixth closes.
    assert!(raw.info(option::INFO, &name, &[]).is_ok());
    raw.send(&migratekit_core::nbd::wire::encode_option(option::LIST, b""));
    assert!(raw.is_closed());

    // Queries: 2 are answered, 3 are too many.
    let mut raw = Raw::options(rig.port);
    assert_eq!(raw.verdict(option::STRUCTURED_REPLY, b"").0, option_reply::ACK);
    assert_eq!(raw.meta(option::SET_META_CONTEXT, &name, &["base:allocation", "x:y"]).len(), 1);
    let three = migratekit_core::nbd::handshake::MetaQuery { export: name.clone(), queries: vec!["a:".into(); 3] }.encode();
    assert_eq!(raw.verdict(option::SET_META_CONTEXT, &three).0, option_reply::ERR_TOO_BIG);
    // EXPORT_NAME: 50 bytes enter, 51 close.
    let enter = |name: &str| {
        let mut raw = Raw::options(rig.port);
        raw.send(&migratekit_core::nbd::wire::encode_option(option::EXPORT_NAME, name.as_bytes()));
        raw
    };
    assert_eq!(enter(&name).take(8), 4096u64.to_be_bytes());
    assert!(enter(&"n".repeat(51)).is_closed());
}

#[test]
fn a_failed_selection_drops_the_one_before_and_another_name_does_not_count() {
    let rig = rig();
    rig.add("other", MemoryDisk::new("m", 4096));
    let mut raw = Raw::options(rig.port);
    raw.option(option::STRUCTURED_REPLY, b"");
    assert_eq!(raw.meta(option::LIST_META_CONTEXT, "disk", &[]), [(0, "base:allocation".to_owned())]);
    assert_eq!(raw.meta(option::LIST_META_CONTEXT, "disk", &["base:"]).len(), 1);
    assert_eq!(raw.meta(option::LIST_META_CONTEXT, "disk", &["qemu:"]).len(), 0);
    assert_eq!(raw.meta(option::SET_META_CONTEXT, "disk", &["base:allocation", "migratekit:ledger"]).len(), 1, "no ledger here");
    raw.go("other");
    assert_eq!(raw.ask(7, 0, 0, 512).errno(), 22, "selected for another export");

    let mut raw = Raw::options(rig.port);
    raw.option(option::STRUCTURED_REPLY, b"");
    assert_eq!(raw.meta(option::SET_META_CONTEXT, "disk", &["base:allocation"]).len(), 1);
    assert_eq!(raw.verdict(option::SET_META_CONTEXT, b"garbage").0, option_reply::ERR_INVALID);
    raw.go("disk");
    assert_eq!(raw.ask(7, 0, 0, 512).errno(), 22, "the failed selection left none");
}
