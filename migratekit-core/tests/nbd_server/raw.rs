//! A client that says what it is told, right or wrong, and shows what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use migratekit_core::nbd::handshake::{InfoReply, InfoRequest, MetaQuery, decode_meta_context};
use migratekit_core::nbd::wire::{
    CHUNK_LENGTH, OPTION_REPLY_LENGTH, Reader, ReplyHeader, Request, chunk, command, decode_option_reply, encode_option, option,
    option_reply,
};

/// A raw connection. Every read has a deadline.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

/// An answer to one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Simple(u32),
    /// Kind and payload of each chunk.
    Chunks(Vec<(u16, Vec<u8>)>),
}

impl Said {
    /// The error value; 0 on success.
    pub(crate) fn errno(&self) -> u32 {
        match self {
            Said::Simple(error) => *error,
            Said::Chunks(chunks) => {
                chunks.iter().filter(|(k, _)| k & chunk::ERROR_BIT != 0).map(|(_, p)| Reader::new(p).u32().unwrap()).next().unwrap_or(0)
            }
        }
    }
}

impl Raw {
    /// Connects and reads the greeting.
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Raw { stream };
        assert_eq!(raw.take(18), b"NBDMAGICIHAVEOPT\0\x03");
        raw
    }

    /// Connects, with flags sent.
    pub(crate) fn options(port: u16) -> Self {
        let mut raw = Raw::connect(port);
        raw.send(&3u32.to_be_bytes());
        raw
    }

    /// In transmission with `export`, with simple replies.
    pub(crate) fn simple(port: u16, export: &str) -> Self {
        let mut raw = Raw::options(port);
        raw.go(export);
        raw
    }

    /// In transmission with `export`, with structured replies and these contexts.
    pub(crate) fn structured(port: u16, export: &str, contexts: &[&str]) -> Self {
        let mut raw = Raw::options(port);
        assert_eq!(raw.option(option::STRUCTURED_REPLY, b"")[0].0, option_reply::ACK);
        if !contexts.is_empty() {
            let found = raw.meta(option::SET_META_CONTEXT, export, contexts);
            assert_eq!(found.len(), contexts.len());
        }
        raw.go(export);
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn take(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the server closed the connection; what it still sends is thrown away.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 65536];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }

    /// Sends an option and collects its replies: code and data.
    pub(crate) fn option(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(&encode_option(code, data));
        self.replies(code)
    }

    pub(crate) fn replies(&mut self, code: u32) -> Vec<(u32, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let header: [u8; OPTION_REPLY_LENGTH] = self.take(OPTION_REPLY_LENGTH).try_into().unwrap();
            let (option, reply, length) = decode_option_reply(&header).unwrap();
            assert_eq!(option, code);
            replies.push((reply, self.take(length as usize)));
            if reply == option_reply::ACK || reply & option_reply::ERROR_BIT != 0 {
                return replies;
            }
        }
    }

    /// The last reply to an option: code, and its data as text.
    pub(crate) fn verdict(&mut self, code: u32, data: &[u8]) -> (u32, String) {
        let (reply, data) = self.option(code, data).pop().unwrap();
        (reply, String::from_utf8(data).unwrap())
    }

    pub(crate) fn info(&mut self, code: u32, export: &str, requests: &[u16]) -> Result<Vec<InfoReply>, (u32, String)> {
        let data = InfoRequest { name: export.to_owned(), requests: requests.to_vec() }.encode();
        let mut replies = self.option(code, &data);
        let (last, text) = replies.pop().unwrap();
        if last != option_reply::ACK {
            return Err((last, String::from_utf8(text).unwrap()));
        }
        Ok(replies.iter().map(|(_, data)| InfoReply::decode(data).unwrap()).collect())
    }

    pub(crate) fn go(&mut self, export: &str) {
        self.info(option::GO, export, &[3]).unwrap();
    }

    pub(crate) fn meta(&mut self, code: u32, export: &str, queries: &[&str]) -> Vec<(u32, String)> {
        let data = MetaQuery { export: export.to_owned(), queries: queries.iter().map(|q| (*q).to_owned()).collect() }.encode();
        let mut replies = self.option(code, &data);
        assert_eq!(replies.pop().unwrap().0, option_reply::ACK);
        replies.iter().map(|(_, data)| decode_meta_context(data).unwrap()).collect()
    }

    pub(crate) fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, length: u32) {
        self.send(&Request { flags, command, cookie, offset, length }.encode());
    }

    pub(crate) fn write(&mut self, cookie: u64, offset: u64, data: &[u8]) {
        self.request(command::WRITE, 0, cookie, offset, u32::try_from(data.len()).unwrap());
        self.send(data);
    }

    /// The next reply in full: cookie and what was said. `length` is that of the READ it answers, if simple.
    pub(crate) fn reply(&mut self) -> (u64, Said) {
        let mut chunks = Vec::new();
        loop {
            let magic = self.take(4);
            let length = ReplyHeader::length_of(u32::from_be_bytes(magic.clone().try_into().unwrap())).expect("a reply");
            let mut header = magic;
            header.extend(self.take(length - 4));
            match ReplyHeader::decode(&header).unwrap() {
                ReplyHeader::Simple { error, cookie } => return (cookie, Said::Simple(error)),
                ReplyHeader::Chunk { flags, kind, cookie, length } => {
                    assert!(header.len() == CHUNK_LENGTH);
                    chunks.push((kind, self.take(length as usize)));
                    if flags & chunk::FLAG_DONE != 0 {
                        return (cookie, Said::Chunks(chunks));
                    }
                }
            }
        }
    }

    /// Sends a request without payload and waits for its answer.
    pub(crate) fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Said {
        self.request(command, flags, 77, offset, length);
        let (cookie, said) = self.reply();
        assert_eq!(cookie, 77);
        said
    }

    /// Reads by simple replies.
    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        assert_eq!(self.ask(command::READ, 0, offset, length), Said::Simple(0));
        self.take(length as usize)
    }
}
