//! The store's index: which references are on this node and which blobs they are made of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{ImageConfig, digest};

const FILE: &str = "index.json";
const LOCK: &str = "index.lock";
const VERSION: u32 = 1;

/// What is kept of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub digest: String,
    pub wasm_digest: String,
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// Manifest, configuration, module.
    pub blobs: Vec<String>,
    pub created_at: Timestamp,
    /// Imported: what collects images leaves it alone.
    #[serde(default)]
    pub pinned: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Contents {
    version: u32,
    images: BTreeMap<String, Record>,
}

/// Another process (`coracle image import` beside a running node) may write the file at any time: readers look at
/// its stamp, writers take a lock.
#[derive(Debug)]
pub struct Index {
    dir: PathBuf,
    cached: Mutex<(Option<Stamp>, Contents)>,
}

/// Every write makes a new file, so the inode alone would nearly do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: SystemTime,
    length: u64,
}

impl Index {
    /// A damaged index is set aside, and said so: images can be had again, and a node that does not start cannot.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let index = Index { dir: dir.to_owned(), cached: Mutex::new((None, Contents::default())) };
        if let Err(error) = index.refresh() {
            if error.kind() != io::ErrorKind::InvalidData {
                return Err(error);
            }
            let aside = dir.join("index.json.damaged");
            fs::rename(dir.join(FILE), &aside)?;
            tracing::error!(%error, aside = %aside.display(), "the image index is damaged: starting with no images");
        }
        Ok(index)
    }

    pub fn get(&self, reference: &str) -> io::Result<Option<Record>> {
        self.refresh()?;
        Ok(self.cached.lock().1.images.get(reference).cloned())
    }

    /// Any reference that satisfies the predicate.
    pub fn find(&self, matches: impl Fn(&str, &Record) -> bool) -> io::Result<Option<Record>> {
        self.refresh()?;
        let cached = self.cached.lock();
        Ok(cached
            .1
            .images
            .iter()
            .find(|(name, record)| matches(name, record))
            .map(|(_, record)| record.clone()))
    }

    pub fn all(&self) -> io::Result<BTreeMap<String, Record>> {
        self.refresh()?;
        Ok(self.cached.lock().1.images.clone())
    }

    pub fn put(&self, reference: &str, record: Record) -> io::Result<()> {
        self.change(|images| images.insert(reference.to_owned(), record)).map(|_| ())
    }

    pub fn remove(&self, reference: &str) -> io::Result<Option<Record>> {
        self.change(|images| images.remove(reference))
    }

    fn change<T>(&self, edit: impl FnOnce(&mut BTreeMap<String, Record>) -> T) -> io::Result<T> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.dir.join(LOCK))?;
        lock.lock()?;
        self.refresh()?;
        let mut contents = self.cached.lock().1.clone();
        let result = edit(&mut contents.images);
        contents.version = VERSION;
        let json = serde_json::to_vec_pretty(&contents)?;
        digest::write_atomically(&self.dir.join(FILE), &json)?;
        *self.cached.lock() = (self.stamp()?, contents);
        Ok(result)
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        use std::os::unix::fs::MetadataExt;
        match fs::metadata(self.dir.join(FILE)) {
            Ok(meta) => Ok(Some(Stamp { inode: meta.ino(), modified: meta.modified()?, length: meta.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn refresh(&self) -> io::Result<()> {
        let stamp = self.stamp()?;
        if self.cached.lock().0 == stamp {
            return Ok(());
        }
        let contents = match stamp {
            Some(_) => {
                let contents: Contents = serde_json::from_slice(&fs::read(self.dir.join(FILE))?)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if contents.version != VERSION {
                    let text = format!("index version {}, this program knows {VERSION}", contents.version);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                contents
            }
            None => Contents::default(),
        };
        *self.cached.lock() = (stamp, contents);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(c: char) -> Record {
        Record {
            digest: format!("sha256:{}", c.to_string().repeat(64)),
            wasm_digest: String::new(),
            size_bytes: 1,
            config: ImageConfig::default(),
            blobs: Vec::new(),
            created_at: Timestamp::UNIX_EPOCH,
            pinned: false,
        }
    }

    #[test]
    fn two_processes_see_each_others_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Index::open(dir.path()).unwrap(), Index::open(dir.path()).unwrap());
        one.put("a", record('a')).unwrap();
        assert_eq!(two.get("a").unwrap(), Some(record('a')));
        two.put("b", record('b')).unwrap();
        assert_eq!(one.all().unwrap().len(), 2);
        assert_eq!(two.remove("a").unwrap(), Some(record('a')));
        assert_eq!(one.get("a").unwrap(), None);
        assert_eq!(Index::open(dir.path()).unwrap().all().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_index_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"{ torn").unwrap();
        let index = Index::open(dir.path()).unwrap();
        assert!(index.all().unwrap().is_empty());
        assert!(dir.path().join("index.json.damaged").exists());
        index.put("a", record('a')).unwrap();
        assert_eq!(Index::open(dir.path()).unwrap().all().unwrap().len(), 1);
    }
}
