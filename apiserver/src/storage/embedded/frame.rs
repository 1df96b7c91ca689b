//! The bytes of the log: segment headers, frames (one group commit each), records, and the mark.
//!
//! All integers are little-endian. Checksums are XXH3-64 seeded with the store's random identity, so neither another
//! store's bytes nor a value that imitates a frame can pass for one of this store's frames.

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(super) const SEGMENT_HEADER_BYTES: usize = 48;
pub(super) const FRAME_HEADER_BYTES: usize = 48;
pub(super) const RECORD_HEADER_BYTES: usize = 39;
pub(super) const MARK_BYTES: usize = 48;

/// Frames start at multiples of this, and the segment's header has the first one to itself: a page that holds
/// acknowledged data is never written again, so a torn write cannot take it along, and a small commit is one page.
pub(super) const ALIGNMENT: u64 = 4096;

pub(super) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGNMENT)
}

/// No frame is longer: the largest batch plus one write of the largest key and value, and what cleaning adds.
pub(super) const FRAME_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

const SEGMENT_MAGIC: &[u8; 8] = b"CORLOG01";
const FRAME_MAGIC: &[u8; 4] = b"cFrm";
const MARK_MAGIC: &[u8; 8] = b"CORMRK01";

/// The random name of one store; every file of it carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(pub [u8; 16]);

impl Identity {
    fn seed(self) -> u64 {
        xxh3_64(&self.0)
    }
}

/// Reads integers one after another; every read past the end gives `None`.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub identity: Identity,
    pub number: u64,
    /// Sequence number of the first frame in this segment.
    pub first_sequence: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(SEGMENT_MAGIC);
        bytes.extend_from_slice(&self.identity.0);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.resize(ALIGNMENT as usize, 0);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..SEGMENT_HEADER_BYTES - 8)?;
        let mut reader = Reader(bytes);
        let magic: [u8; 8] = reader.array()?;
        let header = Self {
            identity: Identity(reader.array()?),
            number: reader.u64()?,
            first_sequence: reader.u64()?,
        };
        (magic == *SEGMENT_MAGIC && reader.u64()? == xxh3_64(covered)).then_some(header)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub payload_bytes: usize,
    /// Grows by one per frame over the whole life of the store. The writer syncs every frame before it writes the
    /// next, so a frame's presence proves that the one before it was durable.
    pub sequence: u64,
    /// The store's revision after this frame.
    pub revision: u64,
    /// Segments below this number hold nothing that is still needed once this frame is durable.
    pub oldest_segment: u64,
    payload_checksum: u64,
}

impl FrameHeader {
    fn encode(&self, identity: Identity) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&(self.payload_bytes as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.revision.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.oldest_segment.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = xxh3_64_with_seed(&bytes[..40], identity.seed());
        bytes[40..48].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], identity: Identity) -> Option<Self> {
        if !bytes.starts_with(FRAME_MAGIC) {
            return None;
        }
        let covered = bytes.get(..FRAME_HEADER_BYTES - 8)?;
        let mut reader = Reader(bytes.get(4..)?);
        let header = Self {
            payload_bytes: reader.u32()? as usize,
            sequence: reader.u64()?,
            revision: reader.u64()?,
            oldest_segment: reader.u64()?,
            payload_checksum: reader.u64()?,
        };
        let intact = reader.u64()? == xxh3_64_with_seed(covered, identity.seed());
        (intact && header.payload_bytes <= FRAME_PAYLOAD_BYTES_MAX).then_some(header)
    }

    pub(super) fn matches(&self, payload: &[u8], identity: Identity) -> bool {
        xxh3_64_with_seed(payload, identity.seed()) == self.payload_checksum
    }
}

/// A frame under construction; reused from commit to commit.
#[derive(Default)]
pub(super) struct FrameBuilder {
    bytes: Vec<u8>,
}

impl FrameBuilder {
    /// A rare large batch must not hold its memory for ever.
    const KEEP_BYTES: usize = 256 * 1024;

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEEP_BYTES);
        self.bytes.resize(FRAME_HEADER_BYTES, 0);
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(FRAME_HEADER_BYTES)
    }

    /// Returns the record's offset from the start of the frame.
    pub(super) fn push(&mut self, record: &Record<'_>) -> u32 {
        let offset = self.bytes.len();
        self.bytes.reserve(RECORD_HEADER_BYTES + record.key.len() + record.value.len());
        self.bytes.push(record.kind as u8);
        self.bytes.extend_from_slice(&(record.key.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(&(record.value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&record.revision.to_le_bytes());
        self.bytes.extend_from_slice(&record.written_at_ms.to_le_bytes());
        self.bytes.extend_from_slice(&record.ttl_ms.to_le_bytes());
        let checksum = xxh3_64_with_seed(record.value, record.revision);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        self.bytes.extend_from_slice(record.key.as_bytes());
        self.bytes.extend_from_slice(record.value);
        offset as u32
    }

    /// The frame, filled up to the alignment.
    pub(super) fn finish(
        &mut self,
        sequence: u64,
        revision: u64,
        oldest_segment: u64,
        identity: Identity,
    ) -> &[u8] {
        let (head, payload) = self.bytes.split_at_mut(FRAME_HEADER_BYTES);
        let header = FrameHeader {
            payload_bytes: payload.len(),
            sequence,
            revision,
            oldest_segment,
            payload_checksum: xxh3_64_with_seed(payload, identity.seed()),
        };
        head.copy_from_slice(&header.encode(identity));
        self.bytes.resize(align(self.bytes.len() as u64) as usize, 0);
        &self.bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RecordKind {
    Put = 1,
    Delete = 2,
    /// A live value copied forward by cleaning: not a new write, its revision is the old one.
    Moved = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub kind: RecordKind,
    pub revision: u64,
    /// Wall clock at the write; with `ttl_ms` it gives the time left after a restart.
    pub written_at_ms: u64,
    /// 0: lives until deleted.
    pub ttl_ms: u64,
    pub key: &'a str,
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn length(key_bytes: usize, value_bytes: usize) -> usize {
        RECORD_HEADER_BYTES + key_bytes + value_bytes
    }

    /// The record at the start of `bytes` and what follows it; `None` when the bytes are not a whole sound record.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader(bytes);
        let kind = match reader.array::<1>()? {
            [1] => RecordKind::Put,
            [2] => RecordKind::Delete,
            [3] => RecordKind::Moved,
            _ => return None,
        };
        let key_bytes = u16::from_le_bytes(reader.array()?) as usize;
        let value_bytes = reader.u32()? as usize;
        let revision = reader.u64()?;
        let written_at_ms = reader.u64()?;
        let ttl_ms = reader.u64()?;
        let checksum = reader.u64()?;
        let key = std::str::from_utf8(reader.take(key_bytes)?).ok()?;
        let value = reader.take(value_bytes)?;
        (xxh3_64_with_seed(value, revision) == checksum)
            .then_some((Self { kind, revision, written_at_ms, ttl_ms, key, value }, reader.0))
    }
}

/// The value of a record that was read whole, if it is the one that was looked for.
pub(super) fn value_of(bytes: Vec<u8>, key: &str, revision: u64) -> Option<Bytes> {
    let (record, rest) = Record::decode(&bytes)?;
    if record.key != key || record.revision != revision || !rest.is_empty() {
        return None;
    }
    let start = bytes.len() - record.value.len();
    Some(Bytes::from(bytes).slice(start..))
}

/// How far the log was durable when this was written: the evidence against a log that lost its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub identity: Identity,
    pub sequence: u64,
    pub revision: u64,
}

impl Mark {
    pub(super) fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[0..8].copy_from_slice(MARK_MAGIC);
        bytes[8..24].copy_from_slice(&self.identity.0);
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.revision.to_le_bytes());
        let checksum = xxh3_64(&bytes[..40]);
        bytes[40..48].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..MARK_BYTES - 8)?;
        let mut reader = Reader(bytes);
        let magic: [u8; 8] = reader.array()?;
        let mark =
            Self { identity: Identity(reader.array()?), sequence: reader.u64()?, revision: reader.u64()? };
        (magic == *MARK_MAGIC && reader.u64()? == xxh3_64(covered)).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity([7; 16]);

    fn record<'a>(key: &'a str, value: &'a [u8]) -> Record<'a> {
        Record { kind: RecordKind::Put, revision: 9, written_at_ms: 3, ttl_ms: 4, key, value }
    }

    #[test]
    fn a_frame_reads_back() {
        let mut builder = FrameBuilder::default();
        builder.clear();
        builder.push(&record("/registry/pods/a/b", b"one"));
        let second = builder.push(&record("/registry/pods/a/c", b"")) as usize;
        let bytes = builder.finish(5, 9, 2, IDENTITY).to_vec();
        let header = FrameHeader::decode(&bytes, IDENTITY).unwrap();
        assert_eq!((header.sequence, header.revision, header.oldest_segment), (5, 9, 2));
        assert_eq!(bytes.len() as u64, ALIGNMENT);
        let end = FRAME_HEADER_BYTES + header.payload_bytes;
        let payload = &bytes[FRAME_HEADER_BYTES..end];
        assert!(header.matches(payload, IDENTITY));
        let (first, rest) = Record::decode(payload).unwrap();
        assert_eq!(first, record("/registry/pods/a/b", b"one"));
        assert_eq!(rest, &bytes[second..end]);
        assert_eq!(Record::decode(rest).unwrap(), (record("/registry/pods/a/c", b""), &[][..]));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed() {
        let mut builder = FrameBuilder::default();
        builder.clear();
        builder.push(&record("/registry/pods/a/b", b"value"));
        let mut bytes = builder.finish(5, 9, 2, IDENTITY).to_vec();
        bytes.truncate(FRAME_HEADER_BYTES + FrameHeader::decode(&bytes, IDENTITY).unwrap().payload_bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let sound = FrameHeader::decode(&damaged, IDENTITY)
                .is_some_and(|h| h.matches(&damaged[FRAME_HEADER_BYTES..], IDENTITY));
            assert!(!sound, "bit {bit}");
        }
    }

    #[test]
    fn another_stores_frame_is_not_ours() {
        let mut builder = FrameBuilder::default();
        builder.clear();
        let bytes = builder.finish(1, 1, 1, Identity([8; 16])).to_vec();
        assert_eq!(FrameHeader::decode(&bytes, IDENTITY), None);
    }

    #[test]
    fn headers_and_marks_read_back_and_truncated_ones_do_not() {
        let header = SegmentHeader { identity: IDENTITY, number: 3, first_sequence: 44 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
        let mark = Mark { identity: IDENTITY, sequence: 4, revision: 5 };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        for length in 0..MARK_BYTES.min(SEGMENT_HEADER_BYTES) {
            assert_eq!(Mark::decode(&mark.encode()[..length]), None);
            assert_eq!(SegmentHeader::decode(&header.encode()[..length]), None);
        }
        assert_eq!(Mark::decode(&[0; MARK_BYTES]), None);
    }

    #[test]
    fn a_value_is_only_given_for_its_own_key_and_revision() {
        let mut builder = FrameBuilder::default();
        builder.clear();
        let offset = builder.push(&record("/a", b"xyz")) as usize;
        let end = FRAME_HEADER_BYTES + builder.payload_bytes();
        let bytes = builder.finish(1, 9, 1, IDENTITY)[offset..end].to_vec();
        assert_eq!(value_of(bytes.clone(), "/a", 9), Some(Bytes::from_static(b"xyz")));
        assert_eq!(value_of(bytes.clone(), "/b", 9), None);
        assert_eq!(value_of(bytes, "/a", 8), None);
    }
}
