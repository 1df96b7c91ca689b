//! A namespace's key-value store on this node: a file per key, whole or not there; an index of them in memory once used.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::keyvalue::{BUCKETS_MAX, ENTRY_BYTES, Error, KEY_BYTES_MAX, incremented, too_many_buckets};
use crate::images::digest;

/// What a namespace may keep on a node.
const BYTES_MAX: u64 = 64 << 20;
const KEYS_MAX: usize = 100_000;
/// Written, then renamed to its key's name: never listed.
const UNFINISHED: &str = ".unfinished";

/// The stores of this node, each open once.
#[derive(Default)]
pub(super) struct NodeStores(parking_lot::Mutex<HashMap<PathBuf, Weak<NodeStore>>>);

impl NodeStores {
    pub fn open(&self, directory: &Path) -> Arc<NodeStore> {
        let mut open = self.0.lock();
        open.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = open.get(directory).and_then(Weak::upgrade) {
            return store;
        }
        let store = Arc::new(NodeStore { directory: directory.to_owned(), index: Arc::default() });
        open.insert(directory.to_owned(), Arc::downgrade(&store));
        store
    }
}

/// Its callers wait for one another: whatever guests do, it takes one blocking thread.
pub(super) struct NodeStore {
    directory: PathBuf,
    /// None until somebody asks.
    index: Arc<Mutex<Option<Index>>>,
}

type Keys = BTreeMap<String, u64>;

#[derive(Default)]
struct Index {
    /// The bytes of each entry.
    buckets: BTreeMap<String, Keys>,
    bytes: u64,
    keys: usize,
}

impl NodeStore {
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(bucket, key);
        self.with(bucket, key, move |index, bucket, key| {
            if !index.has(&bucket, &key) {
                return Ok(None);
            }
            read(&path).map(|(_, value)| Some(value)).map_err(Error::other)
        })
        .await
    }

    pub async fn set(&self, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        let directory = self.directory.clone();
        self.with(bucket, key, move |index, bucket, key| index.set(&directory, &bucket, &key, &value)).await
    }

    pub async fn delete(&self, bucket: &str, key: &str) -> Result<(), Error> {
        let path = self.path(bucket, key);
        self.with(bucket, key, move |index, bucket, key| {
            if index.has(&bucket, &key) {
                fs::remove_file(&path).map_err(Error::other)?;
                index.forget(&bucket, &key);
            }
            Ok(())
        })
        .await
    }

    pub async fn exists(&self, bucket: &str, key: &str) -> Result<bool, Error> {
        self.with(bucket, key, |index, bucket, key| Ok(index.has(&bucket, &key))).await
    }

    pub async fn increment(&self, bucket: &str, key: &str, delta: u64) -> Result<u64, Error> {
        let (directory, path) = (self.directory.clone(), self.path(bucket, key));
        self.with(bucket, key, move |index, bucket, key| {
            let old = match index.has(&bucket, &key) {
                true => Some(read(&path).map_err(Error::other)?.1),
                false => None,
            };
            let new = incremented(&key, old.as_deref(), delta)?;
            index.set(&directory, &bucket, &key, new.to_string().as_bytes())?;
            Ok(new)
        })
        .await
    }

    /// What `look` makes of a bucket's keys, sorted.
    pub async fn read<T: Send + 'static>(
        &self,
        bucket: &str,
        look: impl FnOnce(&Keys) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.with(bucket, "", move |index, bucket, _| {
            Ok(match index.buckets.get(&bucket) {
                Some(keys) => look(keys),
                None => look(&Keys::new()),
            })
        })
        .await
    }

    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.directory.join(bucket).join(file_name(key))
    }

    /// Does the work on a thread for files, one work at a time. A guest that is dropped meanwhile changes nothing: the
    /// work is done to its end, and the next one waits for it.
    async fn with<T: Send + 'static>(
        &self,
        bucket: &str,
        key: &str,
        work: impl FnOnce(&mut Index, String, String) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (bucket, key, directory) = (bucket.to_owned(), key.to_owned(), self.directory.clone());
        let mut index = self.index.clone().lock_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let index = match &mut *index {
                Some(index) => index,
                empty => empty.insert(load(&directory).map_err(Error::other)?),
            };
            work(index, bucket, key)
        });
        done.await.map_err(Error::other)?
    }
}

impl Index {
    fn has(&self, bucket: &str, key: &str) -> bool {
        self.buckets.get(bucket).is_some_and(|keys| keys.contains_key(key))
    }

    fn set(&mut self, directory: &Path, bucket: &str, key: &str, value: &[u8]) -> Result<(), Error> {
        let new_bucket = !self.buckets.contains_key(bucket);
        if new_bucket && self.buckets.len() >= BUCKETS_MAX {
            return Err(too_many_buckets());
        }
        let old = self.buckets.get(bucket).and_then(|keys| keys.get(key)).copied();
        let bytes = ENTRY_BYTES + key.len() as u64 + value.len() as u64;
        if self.bytes - old.unwrap_or(0) + bytes > BYTES_MAX {
            return Err(Error::Other(format!("a namespace keeps {BYTES_MAX} bytes on a node at most")));
        }
        if old.is_none() && self.keys >= KEYS_MAX {
            return Err(Error::Other(format!("a namespace keeps {KEYS_MAX} keys on a node at most")));
        }
        write(&directory.join(bucket), key, value).map_err(Error::other)?;
        self.note(bucket, key, bytes);
        Ok(())
    }

    fn note(&mut self, bucket: &str, key: &str, bytes: u64) {
        let keys = self.buckets.entry(bucket.to_owned()).or_default();
        match keys.insert(key.to_owned(), bytes) {
            Some(old) => self.bytes -= old,
            None => self.keys += 1,
        }
        self.bytes += bytes;
    }

    fn forget(&mut self, bucket: &str, key: &str) {
        if let Some(keys) = self.buckets.get_mut(bucket)
            && let Some(bytes) = keys.remove(key)
        {
            self.bytes -= bytes;
            self.keys -= 1;
        }
    }
}

fn file_name(key: &str) -> String {
    digest::of_bytes(key.as_bytes()).replace(':', "-")
}

/// The key's length (4 bytes, little endian), the key, the value.
fn write(bucket: &Path, key: &str, value: &[u8]) -> io::Result<()> {
    fs::create_dir_all(bucket)?;
    let unfinished = bucket.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.write_all(&(key.len() as u32).to_le_bytes())?;
    file.write_all(key.as_bytes())?;
    file.write_all(value)?;
    file.sync_data()?;
    fs::rename(&unfinished, bucket.join(file_name(key)))?;
    File::open(bucket)?.sync_all()
}

fn read(path: &Path) -> io::Result<(String, Vec<u8>)> {
    let mut file = File::open(path)?;
    let key = read_key(&mut file)?;
    let mut value = Vec::new();
    file.read_to_end(&mut value)?;
    Ok((key, value))
}

fn read_key(file: &mut File) -> io::Result<String> {
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > KEY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut key = vec![0; length];
    file.read_exact(&mut key)?;
    String::from_utf8(key).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// What is on the disk. A file that is not one of ours is passed over.
fn load(directory: &Path) -> io::Result<Index> {
    fs::create_dir_all(directory)?;
    let mut index = Index::default();
    for bucket in fs::read_dir(directory)? {
        let bucket = bucket?;
        let Some(name) = bucket.file_name().to_str().map(str::to_owned) else { continue };
        if !bucket.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(bucket.path())? {
            let entry = entry?;
            let mut file = File::open(entry.path())?;
            let length = file.metadata()?.len();
            if let Ok(key) = read_key(&mut file)
                && entry.file_name().to_str() == Some(&file_name(&key))
            {
                index.note(&name, &key, ENTRY_BYTES + length - 4);
            }
        }
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_set_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let stores = NodeStores::default();
        let store = stores.open(&dir.path().join("ns_uid"));
        assert!(Arc::ptr_eq(&store, &stores.open(&dir.path().join("ns_uid"))), "open once");
        store.set("b", "k/../é", b"value".to_vec()).await.unwrap();
        store.set("b", "gone", b"x".to_vec()).await.unwrap();
        store.delete("b", "gone").await.unwrap();
        store.delete("b", "never").await.unwrap();
        assert_eq!(store.increment("other", "n", 5).await.unwrap(), 5);
        fs::write(dir.path().join("ns_uid/b").join(UNFINISHED), "torn").unwrap();
        fs::write(dir.path().join("ns_uid/b/foreign"), [0xff; 9]).unwrap();
        let bytes = |store: &Arc<NodeStore>| {
            let store = store.clone();
            async move { store.with("", "", |index, _, _| Ok((index.bytes, index.keys))).await.unwrap() }
        };
        let before = bytes(&store).await;
        drop(store);

        let store = NodeStores::default().open(&dir.path().join("ns_uid"));
        assert_eq!(bytes(&store).await, before, "counted as before");
        assert_eq!(store.get("b", "k/../é").await.unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(store.get("b", "gone").await.unwrap(), None);
        assert_eq!(store.increment("other", "n", 37).await.unwrap(), 42);
        let keys = store.read("b", |keys| keys.keys().cloned().collect::<Vec<_>>()).await.unwrap();
        assert_eq!(keys, ["k/../é"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn increments_of_many_are_all_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = NodeStores::default().open(dir.path());
        let all = (0..50).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.increment("b", "n", 1).await })
        });
        for done in futures::future::join_all(all).await {
            done.unwrap().unwrap();
        }
        assert_eq!(store.get("b", "n").await.unwrap().as_deref(), Some(&b"50"[..]));
    }

    #[tokio::test]
    async fn a_namespace_has_its_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let store = NodeStores::default().open(dir.path());
        store.set("b", "k", vec![0; 1 << 20]).await.unwrap();
        store
            .with("", "", |index, _, _| {
                index.bytes = BYTES_MAX;
                Ok(())
            })
            .await
            .unwrap();
        let full = store.set("b", "l", vec![1]).await.unwrap_err();
        assert!(matches!(full, Error::Other(text) if text.contains("67108864 bytes on a node")));
        store.set("b", "k", vec![1]).await.unwrap();
        store
            .with("", "", |index, _, _| {
                index.keys = KEYS_MAX;
                Ok(())
            })
            .await
            .unwrap();
        assert!(store.set("b", "l", vec![1]).await.is_err());
    }
}
