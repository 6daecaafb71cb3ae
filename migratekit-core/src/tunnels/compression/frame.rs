//! The frames, without I/O: how one is written, and a decoder that is fed the stream in whatever pieces.
//!
//! ```text
//!  kind: u8   length: u24, big-endian   length bytes
//!  0 stored   1..=MAX_FRAME             as they are
//!  1 packed   1..=MAX_FRAME             zstd frames that unpack to 1..=MAX_FRAME bytes
//! ```

use std::cell::RefCell;
use std::fmt;

use bytes::BytesMut;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::tunnels::limits::PACKET;

/// Bytes before each frame's own.
pub(crate) const HEADER: usize = 4;
/// The most bytes of a frame, packed and unpacked: with its header it fills one packet.
pub(crate) const MAX_FRAME: usize = PACKET as usize - HEADER;
/// A packed frame must be so many eighths of the plain one, at most: less is not worth the unpacking.
const WORTH_EIGHTHS: usize = 7;

const STORED: u8 = 0;
const PACKED: u8 = 1;

thread_local! {
    /// One packer for all streams that a thread serves: it keeps nothing from frame to frame, and takes up to a MiB.
    static PACKER: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    /// As [`PACKER`].
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c]
}

/// Makes a stored frame of `bytes`, which begin with room for the header.
pub(crate) fn store(bytes: &mut BytesMut) {
    let header = header(STORED, bytes.len().saturating_sub(HEADER));
    if let Some(room) = bytes.first_chunk_mut() {
        *room = header;
    }
}

/// A packed frame of `plain`, if it is worth it.
pub(crate) fn pack(plain: &[u8], level: i32) -> Option<BytesMut> {
    // Less room makes zstd give up where it is not worth it.
    let most = plain.len() / 8 * WORTH_EIGHTHS;
    let mut packed = BytesMut::zeroed(HEADER + most);
    let n = PACKER.with_borrow_mut(|kept| {
        let (set, packer) = match kept {
            Some(kept) => kept,
            None => kept.insert((level, Compressor::new(level).ok()?)),
        };
        if *set != level {
            packer.set_parameter(CParameter::CompressionLevel(level)).ok()?;
            *set = level;
        }
        packer.compress_to_buffer(plain, packed.get_mut(HEADER..)?).ok()
    })?;
    packed.truncate(HEADER + n);
    *packed.first_chunk_mut()? = header(PACKED, n);
    Some(packed)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut plain = vec![0; MAX_FRAME];
    let n = UNPACKER.with_borrow_mut(|kept| {
        let unpacker = match kept {
            Some(kept) => kept,
            None => kept.insert(Decompressor::new().map_err(|_| Malformed::NoUnpacker)?),
        };
        unpacker.decompress_to_buffer(packed, plain.as_mut_slice()).map_err(|_| Malformed::Packed)
    })?;
    if n == 0 {
        return Err(Malformed::Packed);
    }
    plain.truncate(n);
    Ok(plain)
}

/// Why a stream is no row of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    Kind(u8),
    Length(usize),
    Packed,
    NoUnpacker,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Kind(kind) => write!(f, "a frame of the tunnel has the kind {kind}, which does not exist"),
            Malformed::Length(length) => write!(f, "a frame of the tunnel has {length} bytes; 1 to {MAX_FRAME} are allowed"),
            Malformed::Packed => write!(f, "a packed frame of the tunnel does not unpack to 1 to {MAX_FRAME} bytes"),
            Malformed::NoUnpacker => f.write_str("there is no memory to unpack a frame of the tunnel"),
        }
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for std::io::Error {
    fn from(e: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, e)
    }
}

/// What a decoder wants done next; [`Decoder::did`] tells it how much was.
#[derive(Debug)]
pub(crate) enum Want<'a> {
    /// The next bytes of the stream are to be put here.
    Fill(&'a mut [u8]),
    /// So many next bytes of the stream are the consumer's, as they are.
    Pass(usize),
    /// These are the consumer's.
    Give(&'a [u8]),
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; HEADER],
        have: usize,
    },
    Stored {
        left: usize,
    },
    Packed {
        bytes: Vec<u8>,
        have: usize,
    },
    Unpacked {
        bytes: Vec<u8>,
        given: usize,
    },
    /// It was no row of frames.
    Broken(Malformed),
}

const NEXT: State = State::Header { bytes: [0; HEADER], have: 0 };

/// See the [module documentation](self). Between frames it holds nothing.
#[derive(Debug)]
pub(crate) struct Decoder(State);

impl Decoder {
    pub(crate) fn new() -> Self {
        Decoder(NEXT)
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.0, State::Header { have: 0, .. })
    }

    /// What to do next; once the stream was refused, why.
    pub(crate) fn want(&mut self) -> Result<Want<'_>, Malformed> {
        Ok(match &mut self.0 {
            State::Header { bytes, have } => Want::Fill(bytes.get_mut(*have..).unwrap_or_default()),
            State::Stored { left } => Want::Pass(*left),
            State::Packed { bytes, have } => Want::Fill(bytes.get_mut(*have..).unwrap_or_default()),
            State::Unpacked { bytes, given } => Want::Give(bytes.get(*given..).unwrap_or_default()),
            State::Broken(why) => return Err(*why),
        })
    }

    /// So many bytes of what was wanted were done.
    pub(crate) fn did(&mut self, n: usize) {
        let next = match &mut self.0 {
            State::Header { bytes, have } => {
                *have += n;
                (*have >= HEADER).then(|| begin(*bytes))
            }
            State::Stored { left } => {
                *left = left.saturating_sub(n);
                (*left == 0).then_some(Ok(NEXT))
            }
            State::Packed { bytes, have } => {
                *have += n;
                (*have >= bytes.len()).then(|| unpack(bytes).map(|bytes| State::Unpacked { bytes, given: 0 }))
            }
            State::Unpacked { bytes, given } => {
                *given += n;
                (*given >= bytes.len()).then_some(Ok(NEXT))
            }
            State::Broken(_) => None,
        };
        if let Some(next) = next {
            self.0 = next.unwrap_or_else(State::Broken);
        }
    }
}

/// The frame that begins with this header.
fn begin([kind, a, b, c]: [u8; HEADER]) -> Result<State, Malformed> {
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    match kind {
        STORED | PACKED if length == 0 || length > MAX_FRAME => Err(Malformed::Length(length)),
        STORED => Ok(State::Stored { left: length }),
        PACKED => Ok(State::Packed { bytes: vec![0; length], have: 0 }),
        kind => Err(Malformed::Kind(kind)),
    }
}

/// All that `stream` carries, fed in pieces of at most `piece` bytes; the error, or whether it ended between frames.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn decode_all(mut stream: &[u8], piece: usize) -> (Vec<u8>, Result<bool, Malformed>) {
    let (mut decoder, mut plain) = (Decoder::new(), Vec::new());
    loop {
        let want = match decoder.want() {
            Ok(want) => want,
            Err(e) => return (plain, Err(e)),
        };
        let n = match want {
            Want::Give(bytes) => {
                let given = bytes.get(..bytes.len().min(piece)).unwrap_or_default();
                plain.extend_from_slice(given);
                given.len()
            }
            Want::Pass(_) | Want::Fill(_) if stream.is_empty() => return (plain, Ok(decoder.is_between())),
            want => {
                let room = match &want {
                    Want::Pass(left) => *left,
                    Want::Fill(space) => space.len(),
                    Want::Give(_) => 0,
                };
                let (taken, rest) = stream.split_at(room.min(piece).min(stream.len()));
                match want {
                    Want::Fill(space) => space.iter_mut().zip(taken).for_each(|(to, from)| *to = *from),
                    _ => plain.extend_from_slice(taken),
                }
                stream = rest;
                taken.len()
            }
        };
        decoder.did(n);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(plain: &[u8]) -> BytesMut {
        let mut frame = BytesMut::zeroed(HEADER);
        frame.extend_from_slice(plain);
        store(&mut frame);
        frame
    }

    fn by_hand(kind: u8, length: usize, body: &[u8]) -> Vec<u8> {
        [&header(kind, length)[..], body].concat()
    }

    proptest! {
        #[test]
        fn what_is_framed_comes_out_whatever_the_pieces(
            frames in prop::collection::vec((1_usize..MAX_FRAME, any::<u8>(), any::<bool>()), 1..6), piece in 1_usize..70_000, level in 1..4,
        ) {
            let (mut stream, mut plain) = (Vec::new(), Vec::new());
            for (length, seed, even) in frames {
                let part: Vec<u8> = (0..length).map(|i| if even { seed } else { (i * i / 7) as u8 ^ seed }).collect();
                let frame = pack(&part, level).unwrap_or_else(|| stored(&part));
                prop_assert!(frame.len() <= part.len() + HEADER && frame.len() <= PACKET as usize);
                stream.extend_from_slice(&frame);
                plain.extend_from_slice(&part);
            }
            let (got, end) = decode_all(&stream, piece);
            prop_assert!(got == plain && end == Ok(true));
            let (part, end) = decode_all(&stream[..stream.len() - 1], piece);
            prop_assert!(plain.starts_with(&part) && end == Ok(false), "cut off in a frame");
        }

        #[test]
        fn any_bytes_are_frames_or_refused(stream in prop::collection::vec(any::<u8>(), 0..300), piece in 1_usize..40) {
            let (plain, _) = decode_all(&stream, piece);
            prop_assert!(plain.len() <= stream.len() * MAX_FRAME);
        }
    }

    #[test]
    fn each_wrong_frame_is_refused_by_its_name() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < MAX_FRAME, "a bomb of 64 MiB is a small frame: {}", bomb.len());
        let nothing = zstd::bulk::compress(&[], 1).unwrap();
        let good = pack(&[7; 1000], 1).unwrap();
        let cut = &good[HEADER..good.len() - 1];
        let over = zstd::bulk::compress(&vec![0; MAX_FRAME + 1], 1).unwrap();
        for (stream, wrong) in [
            (by_hand(2, 1, b"x"), Malformed::Kind(2)),
            (by_hand(STORED, 0, b""), Malformed::Length(0)),
            (by_hand(PACKED, 0, b""), Malformed::Length(0)),
            (by_hand(STORED, MAX_FRAME + 1, b""), Malformed::Length(MAX_FRAME + 1)),
            (by_hand(PACKED, 0xFF_FFFF, b""), Malformed::Length(0xFF_FFFF)),
            (by_hand(PACKED, bomb.len(), &bomb), Malformed::Packed),
            (by_hand(PACKED, over.len(), &over), Malformed::Packed),
            (by_hand(PACKED, nothing.len(), &nothing), Malformed::Packed),
            (by_hand(PACKED, cut.len(), cut), Malformed::Packed),
            (by_hand(PACKED, 4, b"junk"), Malformed::Packed),
        ] {
            assert_eq!(decode_all(&stream, 1000), (Vec::new(), Err(wrong)), "{wrong}");
        }
    }

    #[test]
    fn noise_is_not_packed_and_costs_its_header() {
        let noise: Vec<u8> = (0..MAX_FRAME as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_pow(3) >> 40) as u8).collect();
        assert!(pack(&noise, 3).is_none());
        assert_eq!(stored(&noise).len(), PACKET as usize);
        assert!(pack(&[], 1).is_none() && pack(b"short", 1).is_none(), "nothing to gain");
    }
}
