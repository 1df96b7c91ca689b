//! Reads the frames of one segment in order, and judges what does not read as one.

use super::{
    super::Error,
    frame::{ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, Identity, align},
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
        let offset = offset.max(ALIGNMENT);
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
        self.offset = align(offset + length as u64);
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

/// The sequence number and place of a frame after `offset` that was written later than `expected`, the one that should
/// be at `offset`. When there is one, the frame at `offset` had been durable; when there is none, what is there may be
/// a write that was cut, or the former content of a segment in its second use.
pub(super) fn later_frame(
    segment: &Segment,
    identity: Identity,
    bytes: u64,
    offset: u64,
    expected: u64,
) -> Result<Option<(u64, u64)>, Error> {
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut position = offset;
    while position + FRAME_HEADER_BYTES as u64 <= bytes {
        segment.file.read_exact_at(&mut header, position).map_err(|e| Error::io("read", &segment.path, e))?;
        if let Some(header) = FrameHeader::decode(&header, identity).filter(|h| h.sequence > expected) {
            return Ok(Some((header.sequence, position)));
        }
        position += ALIGNMENT;
    }
    Ok(None)
}
