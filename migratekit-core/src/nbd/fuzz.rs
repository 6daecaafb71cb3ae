//! Entry points for fuzzing the server's side of the protocol: plain functions of bytes, which must never panic, hang, or take
//! more memory than the bounds allow, whatever the bytes.
//!
//! `tests/fuzz.rs` runs them on a corpus with a seeded mutator; the crate in `fuzz/` lets libFuzzer do it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

use super::epoch::{EpochKey, Token};
use super::export::{Export, PlainExport};
use super::handshake::server::{Action, Facts, Handshake, Header, TlsPolicy};
use super::handshake::{InfoReply, InfoRequest, MetaQuery, decode_list_entry, decode_meta_context};
use super::server::{Limits, Server, ServerConfig};
use super::stream::split_any;
use super::wire::{
    OPTION_LENGTH, OPTION_REPLY_LENGTH, REQUEST_LENGTH, Reader, ReplyHeader, Request, decode_option, decode_option_reply, encode_option,
    option,
};
use crate::block::{BlockWrite, MemoryDisk};
use crate::error::ErrorKind;

/// Size of the fuzzed disk, in bytes.
const DISK: u64 = 1 << 20;
/// The longest payload of the fuzzed server, in bytes.
const PAYLOAD: u32 = 64 * 1024;
/// A connection that takes longer hangs.
const TIME: Duration = Duration::from_secs(60);

/// Every pure decoder of frames and of option data. What decodes must encode to what was decoded.
///
/// # Panics
/// When it does not.
pub fn fuzz_frames(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<REQUEST_LENGTH>()
        && let Some(request) = Request::decode(bytes)
    {
        assert_eq!(&request.encode(), bytes);
        let _ = request.range();
    }
    if let Some(reply) = ReplyHeader::decode(data) {
        let mut out = Vec::new();
        reply.encode(&mut out);
        assert!(data.starts_with(&out));
    }
    if let Some(bytes) = data.first_chunk::<OPTION_LENGTH>() {
        let _ = decode_option(bytes);
    }
    if let Some(bytes) = data.first_chunk::<OPTION_REPLY_LENGTH>() {
        let _ = decode_option_reply(bytes);
    }
    if let Ok(request) = InfoRequest::decode(data, 4096) {
        assert_eq!(request.encode(), data);
    }
    if let Ok(query) = MetaQuery::decode(data, 4096, 32) {
        assert_eq!(query.encode(), data);
    }
    if let Ok(reply) = InfoReply::decode(data) {
        assert!(data.starts_with(&reply.encode()));
    }
    let _ = decode_list_entry(data);
    let _ = decode_meta_context(data);
    if let Ok(name) = std::str::from_utf8(data)
        && let Some(token) = Token::parse(name)
    {
        assert!(EpochKey::new([7; 32]).check(&token).is_none(), "a proof was guessed");
    }
}

/// The handshake: the pure machine first, then the driver over a stream in memory; `data` is all the client says after the
/// greeting. Its first byte chooses whether TLS is required.
///
/// # Panics
/// When the machine answers beyond its bounds, or the server panics or hangs.
pub fn fuzz_server_handshake(data: &[u8]) {
    let (choice, client) = data.split_first().map_or((0, data), |(first, rest)| (*first, rest));
    let policy = if choice & 1 == 0 { TlsPolicy::Off } else { TlsPolicy::Required };
    walk(policy, client);
    serve(client);
}

/// Transmission: the driver over a stream in memory, after a valid handshake; `data` is all the client sends then. Its first byte
/// chooses the form of replies.
///
/// # Panics
/// When the server panics, hangs, or answers beyond its bounds.
pub fn fuzz_server_transmission(data: &[u8]) {
    let (choice, requests) = data.split_first().map_or((0, data), |(first, rest)| (*first, rest));
    let mut client = 3u32.to_be_bytes().to_vec();
    if choice & 1 != 0 {
        client.extend(encode_option(option::STRUCTURED_REPLY, &[]));
    }
    if choice & 2 != 0 {
        let query = MetaQuery { export: "disk".to_owned(), queries: vec!["base:allocation".to_owned()] };
        client.extend(encode_option(option::SET_META_CONTEXT, &query.encode()));
    }
    client.extend(encode_option(option::EXPORT_NAME, b"disk"));
    client.extend_from_slice(requests);
    serve(&client);
}

fn disk() -> Arc<dyn BlockWrite> {
    Arc::new(MemoryDisk::new("fuzzed", DISK))
}

/// Walks the machine through what a client says.
fn walk(policy: TlsPolicy, client: &[u8]) {
    let export = PlainExport::new(disk(), "fuzzed");
    let facts = Facts::of("disk".to_owned(), &export, export.disk().info().clone(), PAYLOAD);
    let mut machine = Handshake::new(Limits::default().handshake, policy);
    let mut r = Reader::new(client);
    let Some(flags) = r.u32() else { return };
    if machine.client_flags(flags).is_err() {
        return;
    }
    while let Some(bytes) = r.take(OPTION_LENGTH).and_then(|b| b.first_chunk::<OPTION_LENGTH>()) {
        let action = match machine.header(bytes) {
            Header::Close(_) => return,
            Header::Skip { length, reply } => {
                assert!(reply.len() < 8192);
                if r.take(usize::try_from(length).unwrap_or(usize::MAX)).is_none() {
                    return;
                }
                continue;
            }
            Header::Data { code, length } => {
                let Some(option) = r.take(usize::try_from(length).unwrap_or(usize::MAX)) else { return };
                machine.option(code, option)
            }
        };
        match action {
            Action::Reply(bytes) | Action::StartTls(bytes) => assert!(bytes.len() < 8192),
            Action::End(_) | Action::Close(_) => return,
            Action::List => drop(machine.list(&["disk".to_owned()])),
            Action::Info { request, go } => {
                let (_, accepted) = machine.info(&request, go, &facts);
                if go && accepted {
                    let _ = machine.finish(&request.name);
                    return;
                }
            }
            Action::ExportName(name) => {
                let _ = machine.export_name(&facts);
                let _ = machine.finish(&name);
                return;
            }
            Action::Meta { query, set } => drop(machine.meta(&query, set, &facts)),
        }
    }
}

/// Serves a client that says `client` and closes; reads all it is answered.
fn serve(client: &[u8]) {
    let limits = Limits {
        payload: PAYLOAD,
        in_flight_bytes: u64::from(PAYLOAD) * 2,
        connection_bytes: u64::from(PAYLOAD),
        status_extents: 64,
        ..Limits::default()
    };
    let Ok(runtime) = Builder::new_current_thread().enable_time().build() else { return };
    let ended = runtime.block_on(async { tokio::time::timeout(TIME, one_connection(limits, client)).await });
    assert!(ended.is_ok(), "the server hangs");
}

async fn one_connection(limits: Limits, client: &[u8]) {
    let bytes_bound = limits.in_flight_bytes;
    let server = Server::new(ServerConfig { limits, ..ServerConfig::default() });
    let added = server.add("disk", Arc::new(PlainExport::new(disk(), "fuzzed")));
    assert!(added.is_ok());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut reader, mut writer) = tokio::io::split(near);
    let says = async {
        // The server may close before it heard all.
        let _ = writer.write_all(client).await;
        let _ = writer.shutdown().await;
    };
    let hears = async {
        let mut total = 0u64;
        let mut space = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = reader.read(&mut space).await {
            total = total.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
            assert!(server.bytes_in_flight() <= bytes_bound);
        }
        total
    };
    let (result, (), total) = tokio::join!(server.handle(split_any(far), "a fuzzer"), says, hears);
    assert!(!matches!(&result, Err(e) if e.kind() == ErrorKind::Internal), "{result:?}");
    // The shortest request has 28 bytes, and its answer at most a payload and some heads.
    let requests = u64::try_from(client.len() / REQUEST_LENGTH).unwrap_or(u64::MAX);
    let options = u64::try_from(client.len() / OPTION_LENGTH).unwrap_or(u64::MAX);
    assert!(total <= 512 + options * 4096 + requests * (u64::from(PAYLOAD) + 2048), "{total} bytes for {}", client.len());
    assert_eq!(server.bytes_in_flight(), 0);
}
