//! What the store holds now: every key with the place of its value in the log. Only durable writes are in it.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::{
    super::{Entry, Error},
    frame::{self, Record},
    log::Segment,
};

/// Where a live value is. The value itself stays on disk: a read is rare (the watch cache serves reads) and comes
/// from the page cache, and an idle cluster is small.
#[derive(Clone)]
pub(super) struct Slot {
    pub revision: u64,
    pub segment: Arc<Segment>,
    /// Of the record, in the segment.
    pub offset: u32,
    pub value_bytes: u32,
}

impl Slot {
    pub(super) fn record_bytes(&self, key: &str) -> u64 {
        Record::length(key.len(), self.value_bytes as usize) as u64
    }

    /// Reads and verifies the value; blocks on the disk.
    pub(super) fn read(&self, key: Arc<str>) -> Result<Entry, Error> {
        let mut bytes = vec![0; self.record_bytes(&key) as usize];
        self.segment
            .file
            .read_exact_at(&mut bytes, u64::from(self.offset))
            .map_err(|e| Error::io("read a value from", &self.segment.path, e))?;
        let value = frame::value_of(bytes, &key, self.revision).ok_or_else(|| Error::Corrupt {
            path: self.segment.path.clone(),
            what: format!("the record of {key} at byte {} does not match its checksum", self.offset),
        })?;
        Ok(Entry { key, value, revision: self.revision })
    }
}

#[derive(Default)]
pub(super) struct State {
    pub revision: u64,
    /// Bytes of the records that `index` points to.
    pub live_bytes: u64,
    index: BTreeMap<Arc<str>, Slot>,
}

impl State {
    pub(super) fn get(&self, key: &str) -> Option<(&Arc<str>, &Slot)> {
        self.index.get_key_value(key)
    }

    pub(super) fn put(&mut self, key: Arc<str>, slot: Slot) {
        self.live_bytes += slot.record_bytes(&key);
        // The old key is kept when there is one, so that history and index share it.
        if let Some(old) = self.index.get_mut(&key) {
            self.live_bytes -= old.record_bytes(&key);
            *old = slot;
        } else {
            self.index.insert(key, slot);
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(old) = self.index.remove(key) {
            self.live_bytes -= old.record_bytes(key);
        }
    }

    pub(super) fn under(&self, prefix: &str) -> Vec<(Arc<str>, Slot)> {
        self.index
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, slot)| (key.clone(), slot.clone()))
            .collect()
    }
}
