//! The encoded items of lists without selectors, kept until the resource changes or nobody asks for them any more.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use coracle_client::{ApiError, Object};
use parking_lot::Mutex;

use crate::gzip;

/// Longest encoded list that is kept, how many of a resource, and how long one that nobody asks for.
const BYTES_MAX: usize = 8 * 1024 * 1024;
const LISTS_MAX: usize = 4;
const AGE_MAX: Duration = Duration::from_secs(60);

/// How the items are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// With commas between them.
    Json,
    /// Each with its tag and length.
    Protobuf,
}

/// The items of one list in one packing.
pub struct Items {
    pub bytes: Bytes,
    compressed: OnceLock<Option<gzip::Part>>,
}

impl Items {
    pub fn encode(
        objects: &[Arc<Object>],
        packing: Packing,
        put: impl Fn(&Object, &mut Vec<u8>) -> Result<(), ApiError>,
    ) -> Result<Arc<Self>, ApiError> {
        let size = objects.iter().map(|o| o.json.len() + 1).sum::<usize>();
        let bytes = match packing {
            Packing::Json => {
                let mut out = BytesMut::with_capacity(size);
                for (i, object) in objects.iter().enumerate() {
                    if i > 0 {
                        out.extend_from_slice(b",");
                    }
                    out.extend_from_slice(&object.json);
                }
                out.freeze()
            }
            Packing::Protobuf => {
                let mut out = Vec::with_capacity(size / 2);
                for object in objects {
                    put(object, &mut out)?;
                }
                out.into()
            }
        };
        Ok(Arc::new(Self { bytes, compressed: OnceLock::new() }))
    }

    /// Compressed once, by whoever asks first.
    pub fn compressed(&self) -> Option<&gzip::Part> {
        self.compressed.get_or_init(|| gzip::Part::new(&self.bytes).ok()).as_ref()
    }
}

struct Kept {
    namespace: Option<String>,
    packing: Packing,
    /// The newest change that it shows.
    changed: u64,
    items: Arc<Items>,
    used: Instant,
}

/// The lists of one resource.
#[derive(Default)]
pub struct Wholes(Mutex<Vec<Kept>>);

impl Wholes {
    pub fn get(&self, namespace: Option<&str>, packing: Packing, changed: u64) -> Option<Arc<Items>> {
        let mut kept = self.0.lock();
        let found = kept
            .iter_mut()
            .find(|w| w.changed == changed && w.packing == packing && w.namespace.as_deref() == namespace)?;
        found.used = Instant::now();
        Some(found.items.clone())
    }

    pub fn put(&self, namespace: Option<&str>, packing: Packing, changed: u64, items: &Arc<Items>) {
        if items.bytes.len() > BYTES_MAX {
            return;
        }
        let mut kept = self.0.lock();
        // What the resource looked like before is asked for by nobody.
        kept.retain(|w| {
            w.changed >= changed && (w.packing != packing || w.namespace.as_deref() != namespace)
        });
        if kept.len() >= LISTS_MAX
            && let Some(oldest) = (0..kept.len()).min_by_key(|at| kept.get(*at).map(|w| w.used))
        {
            kept.swap_remove(oldest);
        }
        let namespace = namespace.map(str::to_owned);
        kept.push(Kept { namespace, packing, changed, items: items.clone(), used: Instant::now() });
    }

    pub fn trim(&self, now: Instant) {
        self.0.lock().retain(|w| now.saturating_duration_since(w.used) <= AGE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_good_until_something_changes() {
        let wholes = Wholes::default();
        let items = Items::encode(&[], Packing::Json, |_, _| Ok(())).unwrap();
        for at in 0..LISTS_MAX * 3 {
            wholes.put(Some(&format!("n{at}")), Packing::Json, 5, &items);
        }
        assert_eq!(wholes.0.lock().len(), LISTS_MAX);
        wholes.put(None, Packing::Json, 6, &items);
        assert_eq!(wholes.0.lock().len(), 1);
        assert!(wholes.get(None, Packing::Json, 6).is_some());
        assert!(wholes.get(None, Packing::Json, 7).is_none());
        assert!(wholes.get(None, Packing::Protobuf, 6).is_none());
        wholes.trim(Instant::now() + AGE_MAX * 2);
        assert!(wholes.get(None, Packing::Json, 6).is_none());
    }
}
