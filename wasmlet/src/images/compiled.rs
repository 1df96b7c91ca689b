//! The cache of compiled modules on disk. What is handed out was written by this node, whole, for this engine.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::digest;

/// Loading machine code is only as safe as its file: every file has its checksum beside it, verified on the opened
/// file before that is mapped. A file that fails is compiled again, never run.
#[derive(Debug, Clone)]
pub struct CompiledCache {
    dir: PathBuf,
}

/// The module (its digest) and everything else its machine code depends on (see the engine's compatibility hash).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledKey {
    pub wasm_digest: String,
    pub compatibility: String,
}

impl CompiledCache {
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        digest::remove_temporaries(dir)?;
        Ok(CompiledCache { dir: dir.to_owned() })
    }

    /// A directory beside the cache's own.
    pub fn sibling(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(name)
    }

    /// The path of the machine code for a key, whether it exists or not.
    pub fn path(&self, key: &CompiledKey) -> io::Result<PathBuf> {
        let hex = digest::sha256_hex(&key.wasm_digest)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a sha256 digest"))?;
        Ok(self.dir.join(format!("{hex}-{}.cwasm", key.compatibility)))
    }

    /// The file for the key, opened and verified. Blocking.
    pub fn load(&self, key: &CompiledKey) -> Option<File> {
        let path = self.path(key).ok()?;
        let expected = fs::read_to_string(checksum_path(&path)).ok()?;
        let file = File::open(&path).ok()?;
        match digest::of_reader(&file) {
            Ok(found) if found == expected.trim() => Some(file),
            found => {
                tracing::warn!(path = %path.display(), ?found, "compiled module fails its checksum: compiling again");
                None
            }
        }
    }

    /// Keeps the machine code, and drops what other engines made of the same module. Blocking.
    pub fn store(&self, key: &CompiledKey, code: &[u8]) -> io::Result<File> {
        let path = self.path(key)?;
        self.remove(&key.wasm_digest)?;
        digest::write_atomically(&path, code)?;
        digest::write_atomically(&checksum_path(&path), digest::of_bytes(code).as_bytes())?;
        File::open(&path)
    }

    /// What there is of a module: the engine configurations and the bytes of their machine code. Blocking.
    pub fn forms(&self, wasm_digest: &str) -> io::Result<Vec<(String, u64)>> {
        let Some(hex) = digest::sha256_hex(wasm_digest) else { return Ok(Vec::new()) };
        let mut forms = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let compatibility = name.to_str().and_then(|name| {
                name.strip_prefix(hex)?.strip_prefix('-')?.strip_suffix(".cwasm").map(str::to_owned)
            });
            if let Some(compatibility) = compatibility {
                forms.push((compatibility, entry.metadata()?.len()));
            }
        }
        forms.sort();
        Ok(forms)
    }

    /// Removes everything compiled from a module. Blocking.
    pub fn remove(&self, wasm_digest: &str) -> io::Result<()> {
        let Some(hex) = digest::sha256_hex(wasm_digest) else { return Ok(()) };
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(hex) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

fn checksum_path(path: &Path) -> PathBuf {
    path.with_extension("cwasm.sha256")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(module: &[u8], compatibility: &str) -> CompiledKey {
        CompiledKey { wasm_digest: digest::of_bytes(module), compatibility: compatibility.into() }
    }

    #[test]
    fn tampered_and_torn_files_are_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompiledCache::open(dir.path()).unwrap();
        let key = key(b"m", "e1");
        assert!(cache.load(&key).is_none());
        cache.store(&key, b"code").unwrap();
        assert!(cache.load(&key).is_some());
        assert_eq!(cache.forms(&key.wasm_digest).unwrap(), [("e1".to_owned(), 4)]);
        assert_eq!(cache.forms(&digest::of_bytes(b"other")).unwrap(), []);
        let path = cache.path(&key).unwrap();
        fs::write(&path, b"c0de").unwrap();
        assert!(cache.load(&key).is_none(), "tampered");
        cache.store(&key, b"code").unwrap();
        fs::remove_file(checksum_path(&path)).unwrap();
        assert!(cache.load(&key).is_none(), "no checksum");
    }

    #[test]
    fn one_engine_per_module() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompiledCache::open(dir.path()).unwrap();
        let (old, new, other) = (key(b"m", "e1"), key(b"m", "e2"), key(b"n", "e1"));
        cache.store(&old, b"1").unwrap();
        cache.store(&other, b"3").unwrap();
        cache.store(&new, b"2").unwrap();
        assert!(cache.load(&old).is_none());
        assert!(cache.load(&new).is_some());
        assert!(cache.load(&other).is_some());
        cache.remove(&other.wasm_digest).unwrap();
        assert!(cache.load(&other).is_none());
    }
}
