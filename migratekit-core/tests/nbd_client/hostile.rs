//! Servers that break the rules: each fault has its kind and its own text; nothing panics, hangs, or is called done.

use std::collections::BTreeMap;

use bytes::Bytes;
use migratekit_core::Error;
use migratekit_core::block::{BlockRead, BlockWrite, Persist};
use migratekit_core::error::ErrorKind;
use migratekit_core::nbd::wire::{self, BASE_ALLOCATION, chunk, errno, info, option, option_reply};
use migratekit_core::units::{ByteRange, MAX_OFFSET};

use crate::fake::{self, End, FIRST, SIZE};

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

/// Each cause must have a text of its own.
#[derive(Default)]
struct Texts(BTreeMap<String, &'static str>);

impl Texts {
    fn check(&mut self, cause: &'static str, want: ErrorKind, got: &Error) {
        assert_eq!(got.kind(), want, "{cause}: {got}");
        let key = format!("{} {:?}", got.message(), got.context_value("option"));
        if let Some(other) = self.0.insert(key, cause) {
            panic!("`{cause}` and `{other}` share the text: {got}");
        }
    }
}

fn go_error(kind: u32) -> Vec<u8> {
    wire::encode_option_reply(option::GO, kind, b"because")
}

fn sizes(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
    let data: Vec<u8> = [minimum, preferred, maximum].iter().flat_map(|n| n.to_be_bytes()).collect();
    fake::go_info(info::BLOCK_SIZE, &data)
}

#[tokio::test(start_paused = true)]
async fn handshakes() {
    use ErrorKind::{Denied, InvalidInput, NotFound, Protocol, Timeout, Unreachable, Unsupported};
    let open = [fake::greeting(), fake::no_structured()].concat();
    let with = [fake::greeting(), fake::structured()].concat();
    let after = |head: &[u8], tail: &[u8]| [head, tail].concat();
    let mut long = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    long.extend([option::GO, option_reply::INFO, u32::MAX].iter().flat_map(|n| n.to_be_bytes()));
    let cases: Vec<(&'static str, ErrorKind, Vec<u8>, End)> = vec![
        ("no NBD at all", Protocol, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), End::Close),
        ("oldstyle", Unsupported, [&b"NBDMAGIC"[..], &0x0000_4202_8186_1253_u64.to_be_bytes()].concat(), End::Close),
        ("another style", Protocol, b"NBDMAGICNBDMAGIC".to_vec(), End::Close),
        ("closed at once", Unreachable, Vec::new(), End::Close),
        ("closed in the greeting", Unreachable, b"NBDMAGICIHAVEOPT\0".to_vec(), End::Close),
        ("closed before an answer", Unreachable, open.clone(), End::Close),
        ("closed in an answer", Unreachable, after(&open, &go_error(option_reply::ERR_UNKNOWN)[..24]), End::Close),
        ("silent", Timeout, fake::greeting(), End::Silence),
        ("wrong reply magic", Protocol, after(&open, &[0x55; 20]), End::Close),
        ("answer to another option", Protocol, after(&open, &fake::structured()), End::Close),
        ("endless length", Protocol, after(&open, &long), End::Silence),
        ("endless answers", Protocol, after(&open, &fake::go_info(99, b"").repeat(100)), End::Silence),
        ("type of another option", Protocol, after(&open, &wire::encode_option_reply(option::GO, option_reply::SERVER, b"")), End::Close),
        ("no size", Protocol, after(&open, &fake::go_end()), End::Close),
        ("huge size", Protocol, after(&open, &fake::export_info(MAX_OFFSET + 1)), End::Close),
        ("short information", Protocol, after(&open, &fake::go_info(info::EXPORT, b"abc")), End::Close),
        ("information without type", Protocol, after(&open, &wire::encode_option_reply(option::GO, option_reply::INFO, b"x")), End::Close),
        ("block sizes cut off", Protocol, after(&open, &fake::go_info(info::BLOCK_SIZE, b"abc")), End::Close),
        ("minimum of 3", Protocol, after(&open, &sizes(3, 4096, 65536)), End::Close),
        ("preferred below minimum", Protocol, after(&open, &sizes(4096, 512, 65536)), End::Close),
        ("maximum below minimum", Protocol, after(&open, &sizes(4096, 4096, 512)), End::Close),
        ("unknown export", NotFound, after(&open, &go_error(option_reply::ERR_UNKNOWN)), End::Silence),
        ("policy", Denied, after(&open, &go_error(option_reply::ERR_POLICY)), End::Silence),
        ("TLS required", Denied, after(&open, &go_error(option_reply::ERR_TLS_REQD)), End::Silence),
        ("shutting down", Unreachable, after(&open, &go_error(option_reply::ERR_SHUTDOWN)), End::Silence),
        ("block sizes required", Protocol, after(&open, &go_error(option_reply::ERR_BLOCK_SIZE_REQD)), End::Silence),
        ("invalid", Protocol, after(&open, &go_error(option_reply::ERR_INVALID)), End::Silence),
        ("too big", InvalidInput, after(&open, &go_error(option_reply::ERR_TOO_BIG)), End::Silence),
        ("platform", Unsupported, after(&open, &go_error(option_reply::ERR_PLATFORM)), End::Silence),
        ("unknown error", Protocol, after(&open, &go_error(option_reply::ERROR_BIT | 4711)), End::Silence),
        ("context not asked for", Protocol, after(&with, &fake::context(1, "qemu:x")), End::Close),
        ("context twice", Protocol, after(&with, &fake::context(1, BASE_ALLOCATION).repeat(2)), End::Close),
        (
            "context too short",
            Protocol,
            after(&with, &wire::encode_option_reply(option::SET_META_CONTEXT, option_reply::META_CONTEXT, b"x")),
            End::Close,
        ),
        ("context without name", Protocol, after(&with, &fake::context(1, "")), End::Close),
    ];
    let mut texts = Texts::default();
    for (cause, kind, bytes, end) in cases {
        let error = fake::open(fake::serve(bytes, Vec::new(), end)).await.err().unwrap_or_else(|| panic!("{cause}: accepted"));
        assert!(error.context_value("server").is_some_and(|s| s.contains("fake")), "{cause}: {error}");
        texts.check(cause, kind, &error);
    }
}

#[tokio::test]
async fn closing_at_every_byte_of_the_handshake() {
    let whole = fake::handshake();
    for length in 0..whole.len() {
        let error = fake::open(fake::serve(whole[..length].to_vec(), Vec::new(), End::Close)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "after {length} bytes: {error}");
    }
    fake::open(fake::serve(whole, Vec::new(), End::Close)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn read_replies() {
    use ErrorKind::{Protocol, Timeout, Unreachable};
    let done = chunk::FLAG_DONE;
    let half = [7; 2048];
    let right = fake::data(done, 0, &[7; 4096]);
    let short_text = [&errno::EIO.to_be_bytes()[..], &[0, 9], b"abc"].concat();
    let cases: Vec<(&'static str, ErrorKind, Vec<u8>, End)> = vec![
        ("no reply magic", Protocol, vec![0x55; 16], End::Silence),
        ("unknown cookie", Protocol, fake::piece(done, chunk::NONE, FIRST + (9 << 16), b""), End::Silence),
        ("simple reply with data agreed structured", Protocol, fake::simple(0, FIRST), End::Silence),
        ("gap", Protocol, [fake::data(0, 0, &half), fake::data(done, 2049, &half[1..])].concat(), End::Silence),
        ("overlap", Protocol, [fake::data(0, 0, &half), fake::data(done, 2047, &half)].concat(), End::Silence),
        ("beyond the end", Protocol, fake::data(done, 1, &[7; 4096]), End::Silence),
        ("before the start", Protocol, fake::hole(done, u64::MAX, 16), End::Silence),
        ("empty hole", Protocol, fake::hole(done, 0, 0), End::Silence),
        ("empty data", Protocol, fake::data(done, 0, b""), End::Silence),
        ("hole of wrong length", Protocol, fake::piece(done, chunk::OFFSET_HOLE, FIRST, &[0; 13]), End::Silence),
        ("NONE with payload", Protocol, fake::piece(done, chunk::NONE, FIRST, b"x"), End::Silence),
        ("extents for a read", Protocol, fake::extents(done, 1, &[(4096, 0)]), End::Silence),
        ("error chunk too short", Protocol, fake::piece(done, chunk::ERROR, FIRST, b"abc"), End::Silence),
        ("error text cut off", Protocol, fake::piece(done, chunk::ERROR, FIRST, &short_text), End::Silence),
        ("error without offset", Protocol, fake::piece(done, chunk::ERROR_OFFSET, FIRST, &[0, 0, 0, 5, 0, 0]), End::Silence),
        ("error number 0", Protocol, fake::piece(done, chunk::ERROR, FIRST, &[0; 6]), End::Silence),
        ("endless chunks", Protocol, fake::piece(0, chunk::NONE, FIRST, b"").repeat(20_000), End::Silence),
        ("silence", Timeout, right[..100].to_vec(), End::Silence),
        ("closed in the payload", Unreachable, right[..1000].to_vec(), End::Close),
        ("closed in the header", Unreachable, right[..10].to_vec(), End::Close),
        ("closed between chunks", Unreachable, fake::data(0, 0, &half), End::Close),
    ];
    let mut texts = Texts::default();
    for (cause, kind, bytes, end) in cases {
        let client = fake::open(fake::serve(fake::handshake(), bytes, end)).await.unwrap();
        let error = client.read(range(0, 4096)).await.err().unwrap_or_else(|| panic!("{cause}: accepted"));
        assert_eq!(error.context_value("offset"), Some("0"), "{cause}: {error}");
        texts.check(cause, kind, &error);
        // The client is over: the next request says why, at once.
        assert_eq!(client.read(range(0, 512)).await.unwrap_err().kind(), kind, "{cause}, next");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_comes_twice() {
    let twice = fake::data(chunk::FLAG_DONE, 0, &[7; 4096]).repeat(2);
    let client = fake::open(fake::serve(fake::handshake(), twice, End::Silence)).await.unwrap();
    assert_eq!(client.read(range(0, 4096)).await.unwrap(), Bytes::from(vec![7; 4096]));
    let error = client.read(range(0, 4096)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Protocol, "the server answers a request a second time"));
}

#[tokio::test(start_paused = true)]
async fn chunks_in_any_order_with_holes_make_one_buffer() {
    let reply = [
        fake::data(0, 3000, &[3; 1096]),
        fake::hole(0, 1000, 1000),
        fake::data(0, 0, &[1; 1000]),
        fake::data(0, 2000, &[2; 1000]),
        fake::piece(chunk::FLAG_DONE, chunk::NONE, FIRST, b""),
    ];
    let client = fake::open(fake::serve(fake::handshake(), reply.concat(), End::Silence)).await.unwrap();
    let want = [vec![1; 1000], vec![0; 1000], vec![2; 1000], vec![3; 1096]].concat();
    assert_eq!(client.read(range(0, 4096)).await.unwrap(), want);
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_server_leave_the_connection_in_use() {
    for (number, kind) in [
        (errno::EPERM, ErrorKind::Denied),
        (errno::EIO, ErrorKind::Io),
        (errno::ENOMEM, ErrorKind::Busy),
        (errno::EINVAL, ErrorKind::InvalidInput),
        (errno::ENOSPC, ErrorKind::NoSpace),
        (errno::EOVERFLOW, ErrorKind::Unsupported),
        (errno::ENOTSUP, ErrorKind::Unsupported),
        (errno::ESHUTDOWN, ErrorKind::Unreachable),
        (4711, ErrorKind::Io),
    ] {
        let text = [&number.to_be_bytes()[..], &[0, 9], b"bad\ndisk!", &512_u64.to_be_bytes()].concat();
        let reply = [
            fake::data(0, 0, &[1; 100]),
            fake::piece(chunk::FLAG_DONE, chunk::ERROR_OFFSET, FIRST, &text),
            fake::piece(chunk::FLAG_DONE, chunk::NONE, 2 << 16, b""),
        ];
        let client = fake::open(fake::serve(fake::handshake(), reply.concat(), End::Silence)).await.unwrap();
        let error = client.read(range(0, 4096)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((error.context_value("offset"), error.context_value("server-says")), (Some("512"), Some("bad disk!")));
        client.flush().await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn extent_replies() {
    let done = chunk::FLAG_DONE;
    let cases: Vec<(&'static str, Vec<u8>)> = vec![
        ("empty extent", fake::extents(done, 1, &[(4096, 0), (0, 1), (4096, 0)])),
        ("more than asked", fake::extents(done, 1, &[(65536, 0), (512, 1)])),
        ("context not selected", fake::extents(done, 2, &[(65536, 0)])),
        ("context twice", [fake::extents(0, 1, &[(65536, 0)]), fake::extents(done, 1, &[(65536, 0)])].concat()),
        ("no extents", fake::piece(done, chunk::NONE, FIRST, b"")),
        ("wrong length", fake::piece(done, chunk::BLOCK_STATUS, FIRST, &[0; 17])),
        ("simple reply", fake::simple(0, FIRST)),
        ("data", fake::data(done, 0, b"x")),
    ];
    let mut texts = Texts::default();
    for (cause, bytes) in cases {
        let client = fake::open(fake::serve(fake::handshake(), bytes, End::Silence)).await.unwrap();
        let error = client.extents(range(0, 65536)).await.err().unwrap_or_else(|| panic!("{cause}: accepted"));
        texts.check(cause, ErrorKind::Protocol, &error);
    }
    let generous = fake::extents(done, 1, &[(4096, 3), (u32::MAX, 0)]);
    let client = fake::open(fake::serve(fake::handshake(), generous, End::Silence)).await.unwrap();
    let extents = client.extents(range(0, 65536)).await.unwrap();
    assert_eq!(extents.iter().map(|e| e.range).collect::<Vec<_>>(), [range(0, 4096), range(4096, 61440)]);
}

#[tokio::test(start_paused = true)]
async fn simple_replies_are_not_structured_ones() {
    let client = fake::open(fake::serve(fake::simple_handshake(), fake::data(1, 0, &[1; 512]), End::Silence)).await.unwrap();
    let error = client.read(range(0, 512)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Protocol, "the server sends a structured reply, which was not agreed"));
    let reply = [fake::simple(0, FIRST), vec![9; 512]].concat();
    let client = fake::open(fake::serve(fake::simple_handshake(), reply, End::Silence)).await.unwrap();
    assert_eq!(client.read(range(0, 512)).await.unwrap(), vec![9; 512]);
    assert!(!client.info().can.extents && client.info().size == SIZE);
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_silent_server_ends_by_its_deadline() {
    let client = fake::open(fake::serve(fake::handshake(), Vec::new(), End::Silence)).await.unwrap();
    let error = client.write(4096, Bytes::from(vec![1; 4096]), Persist::Cached).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("offset")), (ErrorKind::Timeout, Some("4096")));
    assert!(client.connection_generation() > 0);
}
