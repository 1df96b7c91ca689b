//! SPDY/3 frames with their compressed headers. No panic; pieces of any length come to the same as the whole, and what was
//! read is written as something that reads as the same.
#![no_main]
#![allow(dead_code)]

mod spdy;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use spdy::SpdyError;
use spdy::frame::{Decoder, Encoder, Frame};

/// All frames of what came in these pieces, neighbouring data put together; and why it ended.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<SpdyError>) {
    let (mut decoder, mut input, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => add(&mut frames, frame),
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn add(frames: &mut Vec<Frame>, frame: Frame) {
    if let Frame::Data { stream, fin, bytes } = &frame
        && let Some(Frame::Data { stream: before, fin: ended, bytes: first }) = frames.last_mut()
        && before == stream
        && !*ended
    {
        *first = Bytes::from([&first[..], &bytes[..]].concat());
        *ended = *fin;
        return;
    }
    frames.push(frame);
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let whole = read(std::iter::once(rest));
    let pieces = read(rest.chunks(usize::from(first % 31) + 1));
    assert_eq!(whole, pieces);
    let (mut encoder, mut written) = (Encoder::new(), BytesMut::new());
    let kept: Vec<Frame> =
        whole.0.into_iter().filter(|frame| !matches!(frame, Frame::Headers { .. } | Frame::Unknown)).collect();
    kept.iter().for_each(|frame| encoder.encode(frame, &mut written));
    let mut again = Vec::new();
    kept.into_iter().for_each(|frame| add(&mut again, frame));
    assert_eq!(read(std::iter::once(&written[..])), (again, None));
});
