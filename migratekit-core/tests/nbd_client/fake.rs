//! A scripted server: what it sends is given as bytes, so that it can break any rule.

use migratekit_core::nbd::client::{Client, ConnectOptions, Reconnect, Timeouts};
use migratekit_core::nbd::stream::split_any;
use migratekit_core::nbd::uri::Uri;
use migratekit_core::nbd::wire::{self, ReplyHeader, chunk, info, option, option_reply, transmission};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the server does after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Close,
    Silence,
}

/// The cookie of a client's first request on a connection.
pub const FIRST: u64 = 1 << 16;

pub const SIZE: u64 = 1 << 20;

pub fn greeting() -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT"[..], &[0, 3]].concat()
}

pub fn structured() -> Vec<u8> {
    wire::encode_option_reply(option::STRUCTURED_REPLY, option_reply::ACK, &[])
}

pub fn no_structured() -> Vec<u8> {
    wire::encode_option_reply(option::STRUCTURED_REPLY, option_reply::ERR_UNSUP, &[])
}

pub fn context(id: u32, name: &str) -> Vec<u8> {
    wire::encode_option_reply(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &[&id.to_be_bytes()[..], name.as_bytes()].concat())
}

pub fn contexts_end() -> Vec<u8> {
    wire::encode_option_reply(option::SET_META_CONTEXT, option_reply::ACK, &[])
}

pub fn export_info(size: u64) -> Vec<u8> {
    let flags = transmission::HAS_FLAGS | transmission::SEND_FLUSH | transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES;
    go_info(info::EXPORT, &[&size.to_be_bytes()[..], &flags.to_be_bytes()].concat())
}

pub fn go_info(kind: u16, data: &[u8]) -> Vec<u8> {
    wire::encode_option_reply(option::GO, option_reply::INFO, &[&kind.to_be_bytes()[..], data].concat())
}

pub fn go_end() -> Vec<u8> {
    wire::encode_option_reply(option::GO, option_reply::ACK, &[])
}

/// A right handshake with structured replies and `base:allocation` as number 1.
pub fn handshake() -> Vec<u8> {
    [greeting(), structured(), context(1, wire::BASE_ALLOCATION), contexts_end(), export_info(SIZE), go_end()].concat()
}

/// A right handshake of a server that knows no structured replies.
pub fn simple_handshake() -> Vec<u8> {
    [greeting(), no_structured(), export_info(SIZE), go_end()].concat()
}

pub fn simple(error: u32, cookie: u64) -> Vec<u8> {
    let mut out = Vec::new();
    ReplyHeader::Simple { error, cookie }.encode(&mut out);
    out
}

pub fn piece(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ReplyHeader::Chunk { flags, kind, cookie, length: payload.len() as u32 }.encode(&mut out);
    out.extend_from_slice(payload);
    out
}

pub fn data(flags: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    piece(flags, chunk::OFFSET_DATA, FIRST, &[&offset.to_be_bytes()[..], bytes].concat())
}

pub fn hole(flags: u16, offset: u64, length: u32) -> Vec<u8> {
    piece(flags, chunk::OFFSET_HOLE, FIRST, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
}

pub fn extents(flags: u16, id: u32, list: &[(u32, u32)]) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    for (length, state) in list {
        payload.extend_from_slice(&length.to_be_bytes());
        payload.extend_from_slice(&state.to_be_bytes());
    }
    piece(flags, chunk::BLOCK_STATUS, FIRST, &payload)
}

/// Sends `handshake`, waits for the first request, sends `replies`, then closes its side or falls silent; until the client leaves.
pub fn serve(handshake: Vec<u8>, replies: Vec<u8>, end: End) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let (mut r, mut w) = tokio::io::split(far);
        let _ = w.write_all(&handshake).await;
        let mut seen = Vec::new();
        let mut space = [0; 4096];
        while !replies.is_empty() && !seen.windows(4).any(|w| w == wire::REQUEST_MAGIC.to_be_bytes()) {
            match r.read(&mut space).await {
                Ok(0) | Err(_) => return,
                Ok(n) => seen.extend_from_slice(&space[..n]),
            }
        }
        let _ = w.write_all(&replies).await;
        if end == End::Close {
            let _ = w.shutdown().await;
        }
        while r.read(&mut space).await.is_ok_and(|n| n > 0) {}
    });
    near
}

pub fn options() -> ConnectOptions {
    ConnectOptions {
        reconnect: Reconnect::never(),
        timeouts: Timeouts { connect: Duration::from_secs(5), handshake: Duration::from_secs(30), stall: Duration::from_secs(60) },
        ..ConnectOptions::new(Uri::tcp("fake", 10809, "disk"))
    }
}

/// Opens the scripted server.
pub async fn open(stream: DuplexStream) -> migratekit_core::Result<Client> {
    Client::over(split_any(stream), options()).await
}
