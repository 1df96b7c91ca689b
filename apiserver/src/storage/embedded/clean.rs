//! Keeps the log short: live records of the oldest segment are copied into the frames that are written anyway.
//!
//! There is no background thread and no pause: each commit advances a little, in proportion to what it writes. Cleaning
//! always takes the oldest segment, so a tombstone there has nothing older left to hide and is simply dropped.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

use super::{
    super::Error,
    frame::{FRAME_HEADER_BYTES, FrameBuilder, Record, RecordKind},
    log::Log,
    scan::{Scan, Step},
    state::{Slot, State},
};

/// The log may be this many times as long as what is live, and two segments more, before cleaning starts.
const LIVE_FACTOR: u64 = 2;

/// Per commit: bytes looked at for each byte written, and the least and most of it. At most half of what is looked at
/// is live on average, so four for one frees faster than the commit and its copies fill; the most is a commit of the
/// largest batch.
const SCAN_FACTOR: usize = 4;
const SCAN_BYTES_MIN: usize = 64 * 1024;
const SCAN_BYTES_MAX: usize = 20 * 1024 * 1024;

/// The place in the oldest segment up to which everything live has been copied.
#[derive(Clone, Default)]
pub(super) struct Cleaner {
    segment: u64,
    frame: u64,
    /// Within the frame's payload.
    position: usize,
}

#[derive(Default)]
pub(super) struct Moved {
    /// Key, old slot, offset of the copy in the frame.
    pub records: Vec<(Arc<str>, Slot, u32)>,
    /// The oldest segment holds nothing live any more once this frame is durable.
    pub release: bool,
}

impl Cleaner {
    /// Puts copies into `frame`. `newest`: keys that the frame itself writes, whose old records need no copy.
    pub(super) fn advance(
        &mut self,
        log: &Log,
        state: &RwLock<State>,
        newest: &BTreeMap<Arc<str>, usize>,
        frame: &mut FrameBuilder,
    ) -> Result<Moved, Error> {
        let mut moved = Moved::default();
        let Some(oldest) = log.sealed.front() else { return Ok(moved) };
        let state = state.read();
        if log.total_bytes() <= state.live_bytes * LIVE_FACTOR + 2 * log.segment_bytes {
            return Ok(moved);
        }
        if self.segment != oldest.segment.number {
            *self = Self { segment: oldest.segment.number, ..Self::default() };
        }
        let budget = (frame.payload_bytes() * SCAN_FACTOR).clamp(SCAN_BYTES_MIN, SCAN_BYTES_MAX);
        let mut seen = 0;
        let mut scan = Scan::new(&oldest.segment, log.identity, oldest.bytes, self.frame);
        while seen < budget {
            let (offset, payload) = match scan.step(None)? {
                Step::Frame { offset, payload, .. } => (offset, payload),
                Step::End => {
                    moved.release = true;
                    break;
                }
                Step::Damaged { offset } => {
                    let what = format!("damaged at byte {offset} since it was opened");
                    return Err(Error::Corrupt { path: oldest.segment.path.clone(), what });
                }
            };
            self.frame = offset;
            let mut rest = payload.get(self.position..).unwrap_or_default();
            while seen < budget && !rest.is_empty() {
                let at = offset as usize + FRAME_HEADER_BYTES + (payload.len() - rest.len());
                let Some((record, after)) = Record::decode(rest) else {
                    let what = format!("damaged at byte {at} since it was opened");
                    return Err(Error::Corrupt { path: oldest.segment.path.clone(), what });
                };
                seen += rest.len() - after.len();
                rest = after;
                if newest.contains_key(record.key) {
                    continue;
                }
                let live = state.get(record.key).filter(|(_, slot)| {
                    slot.segment.number == oldest.segment.number && slot.offset as usize == at
                });
                if let Some((key, slot)) = live {
                    let copy = frame.push(&Record { kind: RecordKind::Moved, ..record });
                    moved.records.push((key.clone(), slot.clone(), copy));
                }
            }
            self.position = payload.len() - rest.len();
            if !rest.is_empty() {
                break;
            }
            seen += FRAME_HEADER_BYTES;
            (self.frame, self.position) = (scan.offset(), 0);
        }
        Ok(moved)
    }
}
