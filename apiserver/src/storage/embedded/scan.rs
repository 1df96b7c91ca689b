//! Reads the frames of one segment in order, and judges what does not read as one.

use super::{
    super::Error,
    frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, FrameHeader, Identity, SEGMENT_HEADER_BYTES},
    log::Segment,
};

/// Read ahead by this much, so that small frames do not cost a system call each.
const WINDOW_BYTES: usize = 256 * 1024;

pub(super) struct Scan<'a> {
    segment: &'a Segment,
    identity: Identity,
    bytes: u64,
    offset: u64,
    window: Vec<u8>,
    window_start: u64,
}

pub(super) enum Step<'a> {
    Frame {
        header: FrameHeader,
        offset: u64,
        payload: &'a [u8],
    },
    End,
    /// From this offset on the bytes are not the frame that belongs there.
    Damaged {
        offset: u64,
    },
}

impl<'a> Scan<'a> {
    /// `bytes`: the length of the segment; `offset`: of a frame in it.
    pub(super) fn new(segment: &'a Segment, identity: Identity, bytes: u64, offset: u64) -> Self {
        let offset = offset.max(SEGMENT_HEADER_BYTES as u64);
        Self { segment, identity, bytes, offset, window: Vec::new(), window_start: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame; `sequence`: the one it must have, where that is known.
    pub(super) fn step(&mut self, sequence: Option<u64>) -> Result<Step<'_>, Error> {
        let (offset, bytes, identity) = (self.offset, self.bytes, self.identity);
        let left = bytes.saturating_sub(offset);
        if left == 0 {
            return Ok(Step::End);
        }
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Step::Damaged { offset });
        }
        let header = FrameHeader::decode(self.read(offset, FRAME_HEADER_BYTES)?, identity);
        let Some(header) = header.filter(|h| sequence.is_none_or(|s| s == h.sequence)) else {
            return Ok(Step::Damaged { offset });
        };
        let length = FRAME_HEADER_BYTES + header.payload_bytes;
        if length as u64 > left {
            return Ok(Step::Damaged { offset });
        }
        self.offset += length as u64;
        let payload = self.read(offset + FRAME_HEADER_BYTES as u64, header.payload_bytes)?;
        if !header.matches(payload, identity) {
            return Ok(Step::Damaged { offset });
        }
        Ok(Step::Frame { header, offset, payload })
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<&[u8], Error> {
        let inside = offset >= self.window_start
            && offset + length as u64 <= self.window_start + self.window.len() as u64;
        if !inside {
            let want = (length.max(WINDOW_BYTES) as u64).min(self.bytes - offset) as usize;
            // A length from a damaged file is at most the file's own: no allocation beyond what can be read.
            self.window.resize(want, 0);
            self.window_start = offset;
            self.segment
                .file
                .read_exact_at(&mut self.window, offset)
                .map_err(|e| Error::io("read", &self.segment.path, e))?;
        }
        let start = (offset - self.window_start) as usize;
        Ok(&self.window[start..start + length])
    }
}

/// What lies from a damaged place to the end of the last segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing that was written after the frame at this place: it may be a write that was cut.
    Torn,
    /// A later frame stands further on, so the damaged one had been made durable.
    Followed { sequence: u64, offset: u64 },
    /// More bytes than one frame can have.
    TooLong { bytes: u64 },
}

/// `expected`: the sequence number of the frame that should be at `offset`.
pub(super) fn judge_tail(
    segment: &Segment,
    identity: Identity,
    bytes: u64,
    offset: u64,
    expected: u64,
) -> Result<Tail, Error> {
    let left = bytes - offset;
    let mut position = offset;
    let mut window = vec![0; WINDOW_BYTES];
    while position < bytes {
        let length = (bytes - position).min(WINDOW_BYTES as u64) as usize;
        segment
            .file
            .read_exact_at(&mut window[..length], position)
            .map_err(|e| Error::io("read", &segment.path, e))?;
        for start in 0..length {
            let header = FrameHeader::decode(&window[start..length], identity);
            if let Some(header) = header.filter(|h| h.sequence > expected) {
                return Ok(Tail::Followed { sequence: header.sequence, offset: position + start as u64 });
            }
        }
        // Windows overlap so that a header over the edge is seen whole by the next.
        position += if length < WINDOW_BYTES { length } else { length - FRAME_HEADER_BYTES } as u64;
    }
    if left > (FRAME_HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX) as u64 {
        return Ok(Tail::TooLong { bytes: left });
    }
    Ok(Tail::Torn)
}
