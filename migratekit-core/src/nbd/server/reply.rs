//! Answers to requests, in the form the client agreed to.

use bytes::Bytes;

use super::budget::Share;
use super::outbox::Outbox;
use crate::nbd::wire::{ReplyHeader, chunk, command};

/// The longest text of an error, in bytes (the protocol allows 4096).
const MAX_TEXT: usize = 1024;

/// A part of what was read.
#[derive(Debug)]
pub(super) enum Piece {
    Data { offset: u64, data: Bytes },
    Hole { offset: u64, length: u32 },
}

/// The extents of one metadata context: id, then lengths and flags.
#[derive(Debug)]
pub(super) struct Extents {
    pub(super) context: u32,
    pub(super) extents: Vec<(u32, u32)>,
}

/// What a request brought.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Data(Bytes),
    Pieces(Vec<Piece>),
    Status(Vec<Extents>),
}

/// To which request an answer belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) command: u16,
}

/// Writes answers to an outbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replies {
    pub(super) structured: bool,
}

impl Replies {
    /// A success.
    pub(super) fn answer(self, out: &mut Outbox, mark: Mark, answer: Answer, share: Share) {
        match answer {
            // The payload is on the disk: its share is free before the reply left.
            Answer::Done => return self.done(out, mark),
            Answer::Data(data) => self.data(out, mark, data),
            Answer::Pieces(pieces) => {
                let last = pieces.len().saturating_sub(1);
                for (i, piece) in pieces.into_iter().enumerate() {
                    put_piece(out, mark, piece, i == last);
                }
            }
            Answer::Status(contexts) => {
                let last = contexts.len().saturating_sub(1);
                for (i, context) in contexts.iter().enumerate() {
                    put_status(out, mark, context, i == last);
                }
            }
        }
        out.release(share);
    }

    fn done(self, out: &mut Outbox, mark: Mark) {
        // Simple replies are allowed here even where structured ones were agreed upon, and are shorter.
        out.head(|head| ReplyHeader::Simple { error: 0, cookie: mark.cookie }.encode(head));
    }

    fn data(self, out: &mut Outbox, mark: Mark, data: Bytes) {
        if self.structured {
            put_piece(out, mark, Piece::Data { offset: mark.offset, data }, true);
        } else {
            self.done(out, mark);
            out.payload(data);
        }
    }

    /// A failure.
    pub(super) fn error(self, out: &mut Outbox, mark: Mark, errno: u32, text: &str) {
        // An unknown command gets the plain form: what a client expects of it is not known.
        if !self.structured || mark.command > command::BLOCK_STATUS {
            out.head(|head| ReplyHeader::Simple { error: errno, cookie: mark.cookie }.encode(head));
            return;
        }
        let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or("");
        out.head(|head| {
            put_chunk(head, mark, chunk::ERROR, true, 6 + text.len());
            head.extend_from_slice(&errno.to_be_bytes());
            head.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
            head.extend_from_slice(text.as_bytes());
        });
    }
}

fn put_chunk(head: &mut Vec<u8>, mark: Mark, kind: u16, last: bool, length: usize) {
    let flags = if last { chunk::FLAG_DONE } else { 0 };
    ReplyHeader::Chunk { flags, kind, cookie: mark.cookie, length: u32::try_from(length).unwrap_or(u32::MAX) }.encode(head);
}

fn put_piece(out: &mut Outbox, mark: Mark, piece: Piece, last: bool) {
    match piece {
        Piece::Data { offset, data } => {
            out.head(|head| {
                put_chunk(head, mark, chunk::OFFSET_DATA, last, 8 + data.len());
                head.extend_from_slice(&offset.to_be_bytes());
            });
            out.payload(data);
        }
        Piece::Hole { offset, length } => out.head(|head| {
            put_chunk(head, mark, chunk::OFFSET_HOLE, last, 12);
            head.extend_from_slice(&offset.to_be_bytes());
            head.extend_from_slice(&length.to_be_bytes());
        }),
    }
}

fn put_status(out: &mut Outbox, mark: Mark, status: &Extents, last: bool) {
    out.head(|head| {
        put_chunk(head, mark, chunk::BLOCK_STATUS, last, 4 + 8 * status.extents.len());
        head.extend_from_slice(&status.context.to_be_bytes());
        for (length, flags) in &status.extents {
            head.extend_from_slice(&length.to_be_bytes());
            head.extend_from_slice(&flags.to_be_bytes());
        }
    });
}
