//! Blobs by digest: a file is there under its digest only when it is whole and has that digest.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::digest;

#[derive(Debug, thiserror::Error, Clone)]
pub enum BlobError {
    #[error("failed to verify digest: wanted {wanted}, found {found}")]
    Digest { wanted: String, found: String },
    #[error("{digest} is longer than the {size} bytes its descriptor says")]
    TooLong { digest: String, size: u64 },
    #[error("{digest} has {found} bytes, its descriptor says {size}")]
    TooShort { digest: String, size: u64, found: u64 },
    #[error("write {path}: {reason}")]
    Io { path: String, reason: String },
}

#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub fn open(store: &Path) -> io::Result<Self> {
        let dir = store.join("blobs").join("sha256");
        fs::create_dir_all(&dir)?;
        Ok(Blobs { dir })
    }

    /// Where the blob is or would be; None for what is no sha256 digest.
    pub fn path(&self, digest: &str) -> Option<PathBuf> {
        digest::sha256_hex(digest).map(|hex| self.dir.join(hex))
    }

    /// Cheap: whole files only ever appear under their digest, so the length tells what a scan would, short of decay.
    pub fn has(&self, digest: &str, size: Option<u64>) -> bool {
        self.path(digest)
            .and_then(|path| fs::metadata(path).ok())
            .is_some_and(|meta| meta.is_file() && size.is_none_or(|size| meta.len() == size))
    }

    /// Blocking.
    pub fn put(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = digest::of_bytes(bytes);
        if let Some(path) = self.path(&digest)
            && !self.has(&digest, Some(bytes.len() as u64))
        {
            digest::write_atomically(&path, bytes)?;
        }
        Ok(digest)
    }

    pub async fn writer(&self, digest: &str, size: u64) -> Result<BlobWriter, BlobError> {
        let path = self.path(digest).ok_or_else(|| BlobError::Digest {
            wanted: digest.to_owned(),
            found: "no sha256 digest".to_owned(),
        })?;
        let temporary = self.dir.join(format!(".blob.{:016x}.tmp", rand::random::<u64>()));
        let file =
            tokio::fs::File::create_new(&temporary).await.map_err(|error| failed(&temporary, &error))?;
        Ok(BlobWriter {
            file,
            temporary: Temporary(temporary),
            path,
            hasher: Sha256::new(),
            digest: digest.to_owned(),
            size,
            written: 0,
        })
    }

    /// Removes every blob that is not named, and what was left half-written. Blocking; see the store for when.
    pub fn keep_only(&self, digests: &HashSet<String>) -> io::Result<u64> {
        let mut freed = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            if !digests.contains(&digest) {
                freed += entry.metadata().map_or(0, |meta| meta.len());
                fs::remove_file(entry.path())?;
            }
        }
        Ok(freed)
    }
}

/// Removed unless it was renamed into place.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub struct BlobWriter {
    file: tokio::fs::File,
    temporary: Temporary,
    path: PathBuf,
    hasher: Sha256,
    digest: String,
    size: u64,
    written: u64,
}

impl BlobWriter {
    /// How much is here.
    pub fn written(&self) -> u64 {
        self.written
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.written += bytes.len() as u64;
        if self.written > self.size {
            return Err(BlobError::TooLong { digest: self.digest.clone(), size: self.size });
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await.map_err(|error| failed(&self.temporary.0, &error))
    }

    /// Verifies, makes durable, and puts the blob in its place.
    pub async fn finish(mut self) -> Result<(), BlobError> {
        if self.written != self.size {
            return Err(BlobError::TooShort { digest: self.digest, size: self.size, found: self.written });
        }
        let found = format!("sha256:{}", digest::hex(&self.hasher.finalize()));
        if found != self.digest {
            return Err(BlobError::Digest { wanted: self.digest, found });
        }
        let temporary = &self.temporary.0;
        self.file.flush().await.map_err(|error| failed(temporary, &error))?;
        self.file.sync_all().await.map_err(|error| failed(temporary, &error))?;
        tokio::fs::rename(temporary, &self.path).await.map_err(|error| failed(&self.path, &error))?;
        // The name must survive a power loss too: the index is about to mention it.
        let dir = self.path.parent().unwrap_or(&self.path);
        let synced = async { tokio::fs::File::open(dir).await?.sync_all().await };
        synced.await.map_err(|error: io::Error| failed(dir, &error))
    }
}

fn failed(path: &Path, error: &io::Error) -> BlobError {
    BlobError::Io { path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_was_announced_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = digest::of_bytes(b"hello");

        let mut long = blobs.writer(&digest, 4).await.unwrap();
        assert!(matches!(long.write(b"hello").await, Err(BlobError::TooLong { .. })));
        drop(long);
        let mut short = blobs.writer(&digest, 6).await.unwrap();
        short.write(b"hello").await.unwrap();
        assert!(matches!(short.finish().await, Err(BlobError::TooShort { .. })));
        let mut wrong = blobs.writer(&digest, 5).await.unwrap();
        wrong.write(b"hellO").await.unwrap();
        assert!(matches!(wrong.finish().await, Err(BlobError::Digest { .. })));
        assert_eq!(fs::read_dir(&blobs.dir).unwrap().count(), 0, "nothing is left behind");

        let mut good = blobs.writer(&digest, 5).await.unwrap();
        good.write(b"hel").await.unwrap();
        good.write(b"lo").await.unwrap();
        good.finish().await.unwrap();
        assert!(blobs.has(&digest, Some(5)));
        assert!(!blobs.has(&digest, Some(6)));
        assert_eq!(blobs.put(b"hello").unwrap(), digest);
        assert_eq!(blobs.keep_only(&HashSet::new()).unwrap(), 5);
        assert!(!blobs.has(&digest, None));
    }
}
