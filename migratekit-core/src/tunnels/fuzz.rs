//! The entry point for fuzzing the tunnel's own frames: a plain function of bytes, which must never panic, hang, or take more memory than
//! the bounds allow, whatever the bytes.

use super::compression::frame::{HEADER, MAX_FRAME, decode_all, pack, store};

/// The decoder of compressed streams: first byte: the length of the pieces in which the rest is fed. What comes out is the same for all
/// pieces and within its bounds; and the bytes themselves, framed, come out as they were.
///
/// # Panics
/// When they do not.
pub fn fuzz_compressed(data: &[u8]) {
    let (piece, stream) = data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first) + 1, rest));
    let (plain, end) = decode_all(stream, piece);
    assert_eq!((&plain, end), (&decode_all(stream, usize::MAX).0, decode_all(stream, usize::MAX).1), "the pieces make no difference");
    assert!(plain.len() <= (stream.len() / (HEADER + 1)) * MAX_FRAME, "more came out than so many frames may hold");
    let mut framed = Vec::new();
    for part in stream.chunks(MAX_FRAME) {
        let frame = pack(part, 1).unwrap_or_else(|| {
            let mut frame = bytes::BytesMut::zeroed(HEADER);
            frame.extend_from_slice(part);
            store(&mut frame);
            frame
        });
        framed.extend_from_slice(&frame);
    }
    assert_eq!(decode_all(&framed, piece), (stream.to_vec(), Ok(true)), "what was framed comes out");
}
