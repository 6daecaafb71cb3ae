//! Requests and their answers, by a client of our own.

use migratekit_core::block::{BlockInfo, MemoryDisk};
use migratekit_core::nbd::wire::{Reader, STATE_HOLE, STATE_ZERO, chunk, command, command_flag as flag, errno};
use migratekit_core::nbd::{Limits, ServerConfig};

use crate::raw::{Raw, Said};
use crate::rig::Rig;

/// 1 MiB whose second half is a hole.
fn half() -> MemoryDisk {
    let mut content = vec![0; 1 << 20];
    content[..1 << 19].fill(0xa5);
    MemoryDisk::from_bytes("half", &content)
}

fn rig() -> Rig {
    Rig::with_disk(ServerConfig::default(), half())
}

/// The extents of a BLOCK_STATUS chunk.
fn extents(payload: &[u8]) -> (u32, Vec<(u32, u32)>) {
    let mut r = Reader::new(payload);
    let id = r.u32().unwrap();
    let mut all = Vec::new();
    while let Some(length) = r.u32() {
        all.push((length, r.u32().unwrap()));
    }
    (id, all)
}

#[test]
fn writes_are_read_back_with_both_forms_of_replies() {
    let rig = rig();
    let mut simple = Raw::simple(rig.port, "disk");
    for (cookie, length) in [1usize, 511, 4096, 70_000, 1 << 20].into_iter().enumerate() {
        let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        simple.write(cookie as u64, 0, &data);
        assert_eq!(simple.reply(), (cookie as u64, Said::Simple(0)));
        assert!(simple.read(0, length as u32) == data);
        let mut structured = Raw::structured(rig.port, "disk", &[]);
        let Said::Chunks(chunks) = structured.ask(command::READ, flag::DF, 0, length as u32) else { panic!("a simple reply to READ") };
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].0, chunk::OFFSET_DATA);
        assert!(chunks[0].1[8..] == data);
    }
}

#[test]
fn holes_come_as_holes_but_for_df_and_for_those_who_know_them() {
    let rig = rig();
    let mut raw = Raw::structured(rig.port, "disk", &[]);
    let Said::Chunks(chunks) = raw.ask(command::READ, 0, 0, 1 << 20) else { panic!("a simple reply to READ") };
    assert_eq!(chunks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [chunk::OFFSET_DATA, chunk::OFFSET_HOLE]);
    assert_eq!(chunks[1].1, [&(1u64 << 19).to_be_bytes()[..], &(1u32 << 19).to_be_bytes()].concat());
    let one = |raw: &mut Raw, flags, length| match raw.ask(command::READ, flags, 1 << 19, length) {
        Said::Chunks(chunks) => (chunks.len(), chunks[0].0, chunks[0].1.len()),
        Said::Simple(_) => panic!("a simple reply to READ"),
    };
    assert_eq!(one(&mut raw, flag::DF, 1 << 19), (1, chunk::OFFSET_DATA, 8 + (1 << 19)));
    assert_eq!(one(&mut raw, 0, 4096), (1, chunk::OFFSET_DATA, 8 + 4096), "a short read is not searched");
    let mut informed = Raw::structured(rig.port, "disk", &["base:allocation"]);
    assert_eq!(one(&mut informed, 0, 1 << 19), (1, chunk::OFFSET_DATA, 8 + (1 << 19)));
}

#[test]
fn zeroes_trims_flushes_and_caches() {
    let rig = rig();
    let mut raw = Raw::simple(rig.port, "disk");
    assert_eq!(raw.read(100, 4), [0xa5; 4]);
    for (flags, offset) in [(0, 0), (flag::NO_HOLE, 4096), (flag::FAST_ZERO, 8192), (flag::FUA, 12288)] {
        assert_eq!(raw.ask(command::WRITE_ZEROES, flags, offset, 4096), Said::Simple(0));
        assert_eq!(raw.read(offset, 4096), [0; 4096]);
    }
    assert_eq!(raw.read(16384, 4), [0xa5; 4]);
    assert_eq!(raw.ask(command::TRIM, flag::FUA, 65536, 65536), Said::Simple(0));
    assert_eq!(raw.ask(command::FLUSH, 0, 0, 0), Said::Simple(0));
    assert_eq!(raw.ask(command::FLUSH, flag::FUA, 0, 0), Said::Simple(0), "FUA is allowed everywhere");
    assert_eq!(raw.ask(command::CACHE, 0, 0, 1 << 20), Said::Simple(0));
}

#[test]
fn wrong_requests_get_their_error_and_the_connection_goes_on() {
    let rig = rig();
    let end = 1u64 << 20;
    for mut raw in [Raw::simple(rig.port, "disk"), Raw::structured(rig.port, "disk", &[])] {
        for (command, flags, offset, length, error) in [
            (99, 0, 0, 0, errno::EINVAL),
            (8, 0, 0, 0, errno::EINVAL),
            (command::READ, flag::NO_HOLE, 0, 1, errno::EINVAL),
            (command::READ, 1 << 9, 0, 1, errno::EINVAL),
            (command::READ, 0, end, 1, errno::EINVAL),
            (command::READ, 0, end - 1, 2, errno::EINVAL),
            (command::READ, 0, u64::MAX, 2, errno::EINVAL),
            (command::READ, 0, 0, 0, errno::EINVAL),
            (command::WRITE_ZEROES, 0, end, 1, errno::ENOSPC),
            (command::WRITE_ZEROES, flag::DF, 0, 1, errno::EINVAL),
            (command::TRIM, 0, end - 1, 2, errno::EINVAL),
            (command::CACHE, 0, end, 1, errno::EINVAL),
            (command::FLUSH, 0, 1, 0, errno::EINVAL),
            (command::BLOCK_STATUS, 0, 0, 512, errno::EINVAL),
        ] {
            let said = raw.ask(command, flags, offset, length);
            assert_eq!(said.errno(), error, "command {command} flags {flags} at {offset}+{length}: {said:?}");
        }
        raw.write(5, end - 1, b"ab");
        let (cookie, said) = raw.reply();
        assert_eq!((cookie, said.errno()), (5, errno::ENOSPC));
        raw.write(6, end - 2, b"ab");
        assert_eq!(raw.reply(), (6, Said::Simple(0)));
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let info = BlockInfo { read_only: true, ..BlockInfo::plain("ro", 1 << 20) };
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::with_info(info));
    let mut raw = Raw::simple(rig.port, "disk");
    for command in [command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(raw.ask(command, 0, 0, 512), Said::Simple(errno::EPERM));
    }
    raw.write(1, 0, &[1; 100_000]);
    assert_eq!(raw.reply(), (1, Said::Simple(errno::EPERM)));
    assert_eq!(raw.read(0, 4), [0; 4]);
}

#[test]
fn a_disk_that_cannot_zero_fast_says_so_at_once() {
    let mut info = BlockInfo::plain("slow", 1 << 20);
    info.can.zero = true;
    info.can.fast_zero = true;
    let rig = Rig::with_disk(ServerConfig::default(), Slow(MemoryDisk::with_info(info)));
    let mut raw = Raw::simple(rig.port, "disk");
    assert_eq!(raw.ask(command::WRITE_ZEROES, flag::FAST_ZERO, 0, 4096), Said::Simple(errno::ENOTSUP));
    assert_eq!(raw.ask(command::WRITE_ZEROES, 0, 0, 4096), Said::Simple(0));
}

/// A disk that refuses to zero where only fast zeroing is wanted.
struct Slow(MemoryDisk);

mod slow {
    use bytes::Bytes;
    use migratekit_core::block::{BlockInfo, BlockRead, BlockWrite, BoxFuture, Persist, ZeroMode};
    use migratekit_core::units::ByteRange;
    use migratekit_core::{Error, ErrorKind, Result};

    impl BlockRead for super::Slow {
        fn info(&self) -> &BlockInfo {
            self.0.info()
        }
        fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes>> {
            self.0.read(range)
        }
    }

    impl BlockWrite for super::Slow {
        fn write(&self, offset: u64, data: Bytes, persist: Persist) -> BoxFuture<'_, Result<()>> {
            self.0.write(offset, data, persist)
        }
        fn zero(&self, range: ByteRange, mode: ZeroMode, persist: Persist) -> BoxFuture<'_, Result<()>> {
            if mode.only_fast {
                return Box::pin(async { Err(Error::new(ErrorKind::Unsupported, "zero", "it would be slow")) });
            }
            self.0.zero(range, ZeroMode::default(), persist)
        }
        fn discard(&self, range: ByteRange, persist: Persist) -> BoxFuture<'_, Result<()>> {
            self.0.discard(range, persist)
        }
        fn flush(&self) -> BoxFuture<'_, Result<()>> {
            self.0.flush()
        }
    }
}

#[test]
fn block_status_covers_the_range_and_one_means_one() {
    let rig = rig();
    let mut raw = Raw::structured(rig.port, "disk", &["base:allocation"]);
    let mut status = |flags, offset, length| match raw.ask(command::BLOCK_STATUS, flags, offset, length) {
        Said::Chunks(chunks) => {
            assert_eq!(chunks.len(), 1);
            assert_eq!(chunks[0].0, chunk::BLOCK_STATUS);
            extents(&chunks[0].1)
        }
        Said::Simple(_) => panic!("a simple reply to BLOCK_STATUS"),
    };
    let half = 1 << 19;
    let hole = STATE_HOLE | STATE_ZERO;
    assert_eq!(status(0, 0, 1 << 20), (1, vec![(half, 0), (half, hole)]));
    assert_eq!(status(flag::REQ_ONE, 0, 1 << 20), (1, vec![(half, 0)]));
    assert_eq!(status(flag::REQ_ONE, 1000, 500), (1, vec![(500, 0)]));
    assert_eq!(status(0, u64::from(half) + 7, 100), (1, vec![(100, hole)]));
}

#[test]
fn the_extents_of_one_reply_are_bounded() {
    let limits = Limits { status_extents: 4, ..Limits::default() };
    let mut content = vec![0; 16 * 65536];
    for page in (0..16).step_by(2) {
        content[page * 65536] = 1;
    }
    let rig = Rig::with_disk(ServerConfig { limits, ..ServerConfig::default() }, MemoryDisk::from_bytes("stripes", &content));
    let mut raw = Raw::structured(rig.port, "disk", &["base:allocation"]);
    let mut at = 0;
    let mut replies = 0;
    while at < 16 * 65536 {
        let Said::Chunks(chunks) = raw.ask(command::BLOCK_STATUS, 0, at, 16 * 65536 - at as u32) else { panic!("a simple reply") };
        let (_, found) = extents(&chunks[0].1);
        assert_eq!(found.len(), 4, "at the bound, never beyond");
        at += found.iter().map(|(length, _)| u64::from(*length)).sum::<u64>();
        replies += 1;
    }
    assert_eq!(replies, 4);
}

#[test]
fn many_requests_in_one_packet_are_all_answered() {
    let rig = rig();
    let mut raw = Raw::simple(rig.port, "disk");
    let mut packet = Vec::new();
    for cookie in 0..1000u64 {
        let request = migratekit_core::nbd::wire::Request { flags: 0, command: command::READ, cookie, offset: cookie, length: 1 };
        packet.extend_from_slice(&request.encode());
    }
    raw.send(&packet);
    for cookie in 0..1000u64 {
        assert_eq!(raw.reply(), (cookie, Said::Simple(0)));
        assert_eq!(raw.take(1), [0xa5]);
    }
    raw.request(command::DISC, 0, 0, 0, 0);
    assert!(raw.is_closed());
}

#[test]
fn garbage_instead_of_a_request_closes() {
    let rig = rig();
    let mut raw = Raw::simple(rig.port, "disk");
    raw.send(&[0x42; 28]);
    assert!(raw.is_closed());
}
