//! Compression of large answers, and of answers whose larger part is shared between requests.

use std::io::Write;

use bytes::Bytes;
use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

/// What is smaller is not worth it, as upstream.
pub const THRESHOLD_BYTES: usize = 128 * 1024;

/// As upstream: most of the gain for a small part of the work.
const LEVEL: Compression = Compression::new(1);

/// Deflate, no flags, no time, the fastest level, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

/// A whole document.
pub fn document(content: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(content.len() / 4), LEVEL);
    encoder.write_all(content)?;
    encoder.finish()
}

/// A part of documents, compressed by itself: blocks that may stand between any others.
pub struct Part {
    blocks: Bytes,
    sum: Crc,
}

impl Part {
    pub fn new(content: &[u8]) -> Result<Self, std::io::Error> {
        let mut sum = Crc::new();
        sum.update(content);
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(content.len() / 4), LEVEL);
        encoder.write_all(content)?;
        // Ends the last block at a whole byte.
        encoder.flush()?;
        Ok(Self { blocks: std::mem::take(encoder.get_mut()).into(), sum })
    }

    /// The document of a head, this part and an end, in three pieces.
    pub fn within(&self, head: &[u8], end: &[u8]) -> Result<[Bytes; 3], std::io::Error> {
        let mut sum = Crc::new();
        sum.update(head);
        let mut first = DeflateEncoder::new(HEADER.to_vec(), LEVEL);
        first.write_all(head)?;
        first.flush()?;
        sum.combine(&self.sum);
        let mut tail = Crc::new();
        tail.update(end);
        sum.combine(&tail);
        let mut last = DeflateEncoder::new(Vec::new(), LEVEL);
        last.write_all(end)?;
        let mut last = last.finish()?;
        last.extend_from_slice(&sum.sum().to_le_bytes());
        last.extend_from_slice(&sum.amount().to_le_bytes());
        Ok([std::mem::take(first.get_mut()).into(), self.blocks.clone(), last.into()])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn parts_make_whole_documents() {
        let items: String = (0..5000).map(|i| format!("{{\"name\":\"object-{i}\"}},")).collect();
        let part = Part::new(items.as_bytes()).unwrap();
        for (head, end) in [("{\"items\":[", "]}"), ("", ""), ("{\"more\":1,\"items\":[", "]}\n")] {
            let pieces = part.within(head.as_bytes(), end.as_bytes()).unwrap().concat();
            assert!(pieces.len() < items.len() / 3);
            let mut text = String::new();
            // Not the decoder of several members: it must be one.
            let mut decoder = flate2::read::GzDecoder::new(&*pieces);
            decoder.read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{head}{items}{end}"));
        }
    }
}
