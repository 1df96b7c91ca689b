//! wasi:keyvalue: buckets in the container's memory or of its namespace on this node, and mounted objects to read.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

use super::guest::ComponentState;
use super::keyvalue_node::NodeStore;
use super::memory::MemoryAccount;
use super::mounted_objects;
use crate::runtime::{MountedObject, ObjectKind};

mod bindings {
    wasmtime::component::bindgen!({
        inline: r#"
            package coracle:keyvalue;

            world imports {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }

            package wasi:keyvalue@0.2.0-draft {
                interface store {
                    variant error { no-such-store, access-denied, other(string) }
                    record key-response { keys: list<string>, cursor: option<u64> }
                    open: func(identifier: string) -> result<bucket, error>;
                    resource bucket {
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                    }
                }
                interface atomics {
                    use store.{bucket, error};
                    increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
                }
                interface batch {
                    use store.{bucket, error};
                    get-many: func(bucket: borrow<bucket>, keys: list<string>)
                        -> result<list<option<tuple<string, list<u8>>>>, error>;
                    set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
                        -> result<_, error>;
                    delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        "#,
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::Error },
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store};

/// One bucket's key.
pub(super) const KEY_BYTES_MAX: usize = 1_024;
pub(super) const VALUE_BYTES_MAX: usize = 1 << 20;
/// What all buckets of a container may hold in memory; within its memory limit, where it has one.
const MEMORY_BYTES_MAX: u64 = 16 << 20;
/// What an entry costs beside its key and value.
pub(super) const ENTRY_BYTES: u64 = 64;
pub(super) const BUCKETS_MAX: usize = 64;
/// Keys of one answer of `list-keys`.
const PAGE_KEYS: usize = 1_000;
/// The bucket of the empty name.
const BUCKET_DEFAULT: &str = "default";

/// What a guest is told, or a trap.
#[derive(Debug)]
pub enum Error {
    NoSuchStore,
    AccessDenied,
    Other(String),
    Trap(wasmtime::Error),
}

impl From<ResourceTableError> for Error {
    fn from(error: ResourceTableError) -> Self {
        Error::Trap(error.into())
    }
}

impl Error {
    pub fn other(text: impl ToString) -> Self {
        Error::Other(text.to_string())
    }
}

/// What the guests of a container keep and may read.
pub(super) struct KeyValue {
    pub objects: Vec<MountedObject>,
    pub env: Arc<[(String, String)]>,
    node: Option<Arc<NodeStore>>,
    memory: Mutex<Memory>,
    account: Arc<MemoryAccount>,
}

#[derive(Default)]
struct Memory {
    buckets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    bytes: u64,
}

impl KeyValue {
    pub fn new(
        objects: Vec<MountedObject>,
        env: Arc<[(String, String)]>,
        node: Option<Arc<NodeStore>>,
        account: Arc<MemoryAccount>,
    ) -> Self {
        KeyValue { objects, env, node, memory: Mutex::default(), account }
    }

    /// What is in memory ends with the container.
    pub fn clear(&self) {
        let memory = std::mem::take(&mut *self.memory.lock());
        self.account.release(memory.bytes);
    }

    fn open(self: &Arc<Self>, identifier: &str) -> Result<Bucket, Error> {
        if let Some((kind, name)) = identifier.split_once('/') {
            let kind = match kind {
                "configmap" => ObjectKind::ConfigMap,
                "secret" => ObjectKind::Secret,
                _ => return Err(Error::NoSuchStore),
            };
            let found = self.objects.iter().position(|object| object.kind == kind && object.name == name);
            return found.map(|at| Bucket(Kept::Mounted(self.clone(), at))).ok_or(Error::NoSuchStore);
        }
        let name = if identifier.is_empty() { BUCKET_DEFAULT } else { identifier };
        if !is_bucket_name(name) {
            return Err(Error::NoSuchStore);
        }
        let name = name.to_owned();
        Ok(match &self.node {
            Some(node) => Bucket(Kept::Node(node.clone(), name)),
            None => Bucket(Kept::Memory(self.clone(), name)),
        })
    }

    fn set(&self, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        self.put(&mut self.memory.lock(), bucket, key, value)
    }

    fn put(&self, memory: &mut Memory, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        if !memory.buckets.contains_key(bucket) && memory.buckets.len() >= BUCKETS_MAX {
            return Err(too_many_buckets());
        }
        let old = memory.buckets.get(bucket).and_then(|keys| keys.get(key));
        let old = old.map_or(0, |old| entry_bytes(key, old.len()));
        let new = entry_bytes(key, value.len());
        if memory.bytes - old + new > MEMORY_BYTES_MAX {
            return Err(Error::Other(format!(
                "the container's buckets hold {MEMORY_BYTES_MAX} bytes in memory at most"
            )));
        }
        self.account.reserve(new).map_err(Error::other)?;
        self.account.release(old);
        memory.bytes = memory.bytes - old + new;
        memory.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), value);
        Ok(())
    }

    /// False where the value is no longer `old`.
    fn replace(&self, bucket: &str, key: &str, old: Option<&[u8]>, new: Vec<u8>) -> Result<bool, Error> {
        let mut memory = self.memory.lock();
        let found = memory.buckets.get(bucket).and_then(|keys| keys.get(key)).map(Vec::as_slice);
        if found != old {
            return Ok(false);
        }
        self.put(&mut memory, bucket, key, new).map(|()| true)
    }

    fn delete(&self, bucket: &str, key: &str) {
        let mut memory = self.memory.lock();
        let Some(keys) = memory.buckets.get_mut(bucket) else { return };
        if let Some(old) = keys.remove(key) {
            if keys.is_empty() {
                memory.buckets.remove(bucket);
            }
            let bytes = entry_bytes(key, old.len());
            memory.bytes -= bytes;
            self.account.release(bytes);
        }
    }

    fn read<T>(&self, bucket: &str, look: impl FnOnce(&BTreeMap<String, Vec<u8>>) -> T) -> T {
        let memory = self.memory.lock();
        match memory.buckets.get(bucket) {
            Some(keys) => look(keys),
            None => look(&BTreeMap::new()),
        }
    }
}

impl Drop for KeyValue {
    fn drop(&mut self) {
        self.clear();
    }
}

pub(super) fn entry_bytes(key: &str, value: usize) -> u64 {
    ENTRY_BYTES + key.len() as u64 + value as u64
}

pub(super) fn too_many_buckets() -> Error {
    Error::Other(format!("there are {BUCKETS_MAX} buckets already"))
}

/// A name of the API's form, which is also a directory's.
fn is_bucket_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// `cursor` is the number of keys that were told.
fn page(keys: impl ExactSizeIterator<Item = String>, cursor: Option<u64>) -> store::KeyResponse {
    let from = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX).min(keys.len());
    let next = from.saturating_add(PAGE_KEYS);
    let cursor = (next < keys.len()).then_some(next as u64);
    store::KeyResponse { keys: keys.skip(from).take(PAGE_KEYS).collect(), cursor }
}

fn check(key: &str, value: usize) -> Result<(), Error> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::Other(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len())));
    }
    if value > VALUE_BYTES_MAX {
        return Err(Error::Other(format!("a value has {VALUE_BYTES_MAX} bytes at most, this one {value}")));
    }
    Ok(())
}

/// Decimal text, as other hosts keep it.
pub(super) fn incremented(key: &str, value: Option<&[u8]>, delta: u64) -> Result<u64, Error> {
    let text = std::str::from_utf8(value.unwrap_or(b"0")).ok();
    let number: Option<u64> = text.and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| Error::Other(format!("the value of {key:?} is no number")))?;
    number.checked_add(delta).ok_or_else(|| Error::Other(format!("the number of {key:?} would overflow")))
}

/// An open bucket.
pub struct Bucket(Kept);

enum Kept {
    Memory(Arc<KeyValue>, String),
    Node(Arc<NodeStore>, String),
    /// By its place in the container's objects.
    Mounted(Arc<KeyValue>, usize),
}

impl Bucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        match &self.0 {
            Kept::Memory(kept, bucket) => Ok(kept.read(bucket, |keys| keys.get(key).cloned())),
            Kept::Node(node, bucket) => node.get(bucket, key).await,
            Kept::Mounted(kept, at) => {
                let key = key.to_owned();
                mounted(kept, *at, move |object| mounted_objects::read(object, &key)).await
            }
        }
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), Error> {
        check(key, value.len())?;
        match &self.0 {
            Kept::Memory(kept, bucket) => kept.set(bucket, key, value),
            Kept::Node(node, bucket) => node.set(bucket, key, value).await,
            Kept::Mounted(..) => Err(Error::AccessDenied),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        match &self.0 {
            Kept::Memory(kept, bucket) => {
                kept.delete(bucket, key);
                Ok(())
            }
            Kept::Node(node, bucket) => node.delete(bucket, key).await,
            Kept::Mounted(..) => Err(Error::AccessDenied),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, Error> {
        match &self.0 {
            Kept::Memory(kept, bucket) => Ok(kept.read(bucket, |keys| keys.contains_key(key))),
            Kept::Node(node, bucket) => node.exists(bucket, key).await,
            Kept::Mounted(..) => Ok(self.get(key).await?.is_some()),
        }
    }

    async fn keys(&self, cursor: Option<u64>) -> Result<store::KeyResponse, Error> {
        match &self.0 {
            Kept::Memory(kept, bucket) => Ok(kept.read(bucket, |keys| page(keys.keys().cloned(), cursor))),
            Kept::Node(node, bucket) => {
                node.read(bucket, move |keys| page(keys.keys().cloned(), cursor)).await
            }
            Kept::Mounted(kept, at) => {
                let keys = mounted(kept, *at, mounted_objects::keys).await?;
                Ok(page(keys.into_iter(), cursor))
            }
        }
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, Error> {
        check(key, 0)?;
        match &self.0 {
            Kept::Memory(kept, bucket) => {
                // One store's calls come one by one, but requests of a container share its buckets.
                loop {
                    let old = kept.read(bucket, |keys| keys.get(key).cloned());
                    let new = incremented(key, old.as_deref(), delta)?;
                    if kept.replace(bucket, key, old.as_deref(), new.to_string().into_bytes())? {
                        return Ok(new);
                    }
                }
            }
            Kept::Node(node, bucket) => node.increment(bucket, key, delta).await,
            Kept::Mounted(..) => Err(Error::AccessDenied),
        }
    }
}

/// Files are read on threads for it.
async fn mounted<T: Send + 'static>(
    kept: &Arc<KeyValue>,
    at: usize,
    read: impl FnOnce(&MountedObject) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let kept = kept.clone();
    let read = tokio::task::spawn_blocking(move || read(&kept.objects[at]));
    read.await.map_err(Error::other)?.map_err(Error::other)
}

/// A store's view of its container's buckets.
pub(super) struct KeyValueView<'a> {
    kept: &'a Arc<KeyValue>,
    table: &'a mut ResourceTable,
}

impl store::Host for KeyValueView<'_> {
    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Error> {
        let bucket = self.kept.open(&identifier)?;
        Ok(self.table.push(bucket)?)
    }

    fn convert_error(&mut self, error: Error) -> wasmtime::Result<store::Error> {
        match error {
            Error::NoSuchStore => Ok(store::Error::NoSuchStore),
            Error::AccessDenied => Ok(store::Error::AccessDenied),
            Error::Other(text) => Ok(store::Error::Other(text)),
            Error::Trap(trap) => Err(trap),
        }
    }
}

impl store::HostBucket for KeyValueView<'_> {
    async fn get(&mut self, this: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Error> {
        self.table.get(&this)?.get(&key).await
    }

    async fn set(&mut self, this: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Error> {
        self.table.get(&this)?.set(&key, value).await
    }

    async fn delete(&mut self, this: Resource<Bucket>, key: String) -> Result<(), Error> {
        self.table.get(&this)?.delete(&key).await
    }

    async fn exists(&mut self, this: Resource<Bucket>, key: String) -> Result<bool, Error> {
        self.table.get(&this)?.exists(&key).await
    }

    async fn list_keys(
        &mut self,
        this: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<store::KeyResponse, Error> {
        self.table.get(&this)?.keys(cursor).await
    }

    async fn drop(&mut self, this: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl atomics::Host for KeyValueView<'_> {
    async fn increment(&mut self, this: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Error> {
        self.table.get(&this)?.increment(&key, delta).await
    }
}

impl batch::Host for KeyValueView<'_> {
    async fn get_many(
        &mut self,
        this: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Error> {
        let bucket = self.table.get(&this)?;
        let mut found = Vec::new();
        for key in keys {
            let value = bucket.get(&key).await?;
            found.push(value.map(|value| (key, value)));
        }
        Ok(found)
    }

    async fn set_many(
        &mut self,
        this: Resource<Bucket>,
        values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Error> {
        let bucket = self.table.get(&this)?;
        for (key, value) in values {
            bucket.set(&key, value).await?;
        }
        Ok(())
    }

    async fn delete_many(&mut self, this: Resource<Bucket>, keys: Vec<String>) -> Result<(), Error> {
        let bucket = self.table.get(&this)?;
        for key in keys {
            bucket.delete(&key).await?;
        }
        Ok(())
    }
}

struct HasKeyValue;

impl HasData for HasKeyValue {
    type Data<'a> = KeyValueView<'a>;
}

pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    fn view(state: &mut ComponentState) -> KeyValueView<'_> {
        KeyValueView { kept: &state.keyvalue, table: &mut state.table }
    }
    store::add_to_linker::<ComponentState, HasKeyValue>(linker, view)?;
    atomics::add_to_linker::<ComponentState, HasKeyValue>(linker, view)?;
    batch::add_to_linker::<ComponentState, HasKeyValue>(linker, view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names() {
        for (name, good) in [
            ("default", true),
            ("a.b_c-9", true),
            ("9", true),
            ("", false),
            (".x", false),
            ("..", false),
            ("A", false),
            ("a/b", false),
        ] {
            assert_eq!(is_bucket_name(name), good, "{name:?}");
        }
        assert!(!is_bucket_name(&"a".repeat(64)));
    }

    #[test]
    fn pages() {
        let keys = || (0..2_500).map(|n| n.to_string()).collect::<Vec<_>>().into_iter();
        for (cursor, count, next) in [
            (None, 1_000, Some(1_000)),
            (Some(1_000), 1_000, Some(2_000)),
            (Some(2_000), 500, None),
            (Some(2_500), 0, None),
            (Some(u64::MAX), 0, None),
        ] {
            let page = page(keys(), cursor);
            assert_eq!((page.keys.len(), page.cursor), (count, next), "{cursor:?}");
        }
    }

    #[test]
    fn numbers() {
        for (value, delta, want) in [
            (None, 3, Some(3)),
            (Some("40"), 2, Some(42)),
            (Some("x"), 1, None),
            (Some("18446744073709551615"), 1, None),
        ] {
            assert_eq!(incremented("k", value.map(str::as_bytes), delta).ok(), want, "{value:?}");
        }
    }

    #[test]
    fn memory_is_counted_bounded_and_given_back() {
        let account = Arc::new(MemoryAccount::new(Some(4_000)));
        let kept = Arc::new(KeyValue::new(Vec::new(), Arc::from([]), None, account.clone()));
        kept.set("b", "k", vec![0; 1_000]).unwrap();
        assert_eq!(account.used(), 1_000 + 1 + ENTRY_BYTES);
        kept.set("b", "k", vec![0; 500]).unwrap();
        assert_eq!(account.used(), 500 + 1 + ENTRY_BYTES);
        let refused = kept.set("b", "l", vec![0; 4_000]).unwrap_err();
        assert!(matches!(&refused, Error::Other(text) if text.contains("limit 4000")), "{refused:?}");
        assert!(!account.exceeded(), "the guest is told, and not killed");
        assert!(kept.replace("b", "k", Some(b"other"), vec![1]).is_ok_and(|replaced| !replaced));
        kept.delete("b", "k");
        assert_eq!(account.used(), 0);
        kept.set("b", "k", vec![0; 500]).unwrap();
        drop(kept);
        assert_eq!(account.used(), 0);

        let kept = KeyValue::new(Vec::new(), Arc::from([]), None, Arc::new(MemoryAccount::new(None)));
        for n in 0..BUCKETS_MAX {
            kept.set(&format!("b{n}"), "k", vec![0; VALUE_BYTES_MAX / 16]).unwrap();
        }
        assert!(kept.set("one-more", "k", vec![]).is_err());
        let full = (0..400).find_map(|n| kept.set("b0", &format!("k{n}"), vec![0; VALUE_BYTES_MAX]).err());
        assert!(matches!(full, Some(Error::Other(text)) if text.contains("16777216 bytes")));
    }
}
