//! The node's images: what is here, and how what is not comes here.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::auth::RegistryAuth;
use super::blobs::Blobs;
use super::compiled::CompiledCache;
use super::error::{ImportError, PullError, PullFailure, StoreError};
use super::import;
use super::index::{Index, Record};
use super::inspect::{Inspection, inspect};
use super::manifest::{self, Content, Descriptor, MANIFEST_BYTES_MAX, Manifest};
use super::reference::Reference;
use super::source::{Registry, Source};
use super::{ImageConfig, LocalImage, digest, unpack};

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Registries (`host` or `host:port`) spoken to without TLS, beside those on loopback.
    pub plain_http_registries: Vec<String>,
}

/// Pulls at once; more wait.
const PULLS_MAX: usize = 5;
/// An index may name an index; a chain longer than this is a mistake or a trap.
const INDEX_DEPTH_MAX: usize = 2;
const GC_LOCK: &str = "blobs.lock";

type Pull = Shared<BoxFuture<'static, Result<Arc<LocalImage>, PullError>>>;

/// A content-addressed store in one directory. Several processes may use it at once.
pub struct ImageStore {
    dir: PathBuf,
    blobs: Blobs,
    index: Index,
    compiled: CompiledCache,
    options: Options,
    pulls: Semaphore,
    /// Layers were fetched that no image keeps.
    leftovers: AtomicBool,
    /// One pull per reference and credentials; whoever asks meanwhile gets its result.
    in_flight: Mutex<HashMap<(String, Vec<RegistryAuth>), Pull>>,
}

/// A line of `list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub reference: String,
    pub digest: String,
    pub wasm_digest: String,
    pub size_bytes: u64,
    pub created_at: Timestamp,
    /// It was imported, not pulled.
    pub pinned: bool,
}

impl ImageStore {
    pub fn open(dir: &Path) -> Result<Arc<Self>, StoreError> {
        Self::open_with(dir, Options::default())
    }

    pub fn open_with(dir: &Path, options: Options) -> Result<Arc<Self>, StoreError> {
        let failed = |step| move |source| StoreError::Io { step, source };
        std::fs::create_dir_all(dir).map_err(failed("create the image directory"))?;
        digest::remove_temporaries(dir).map_err(failed("clean the image directory"))?;
        Ok(Arc::new(ImageStore {
            dir: dir.to_owned(),
            blobs: Blobs::open(dir).map_err(failed("open the blob directory"))?,
            index: Index::open(dir).map_err(failed("open the image index"))?,
            compiled: CompiledCache::open(&dir.join("compiled"))
                .map_err(failed("open the directory of compiled modules"))?,
            options,
            pulls: Semaphore::new(PULLS_MAX),
            leftovers: AtomicBool::new(false),
            in_flight: Mutex::new(HashMap::new()),
        }))
    }

    /// The cache that the runtime compiles into.
    pub fn compiled(&self) -> &CompiledCache {
        &self.compiled
    }

    /// The image, pulled if the policy wants it and it can be had.
    pub async fn ensure(
        self: &Arc<Self>,
        image: &str,
        policy: PullPolicy,
        auth: Vec<RegistryAuth>,
    ) -> Result<Arc<LocalImage>, PullError> {
        let reference: Reference =
            image.parse().map_err(|source| PullError::InvalidName { image: image.to_owned(), source })?;
        let local = self.lookup(&reference).map_err(|error| PullError::Failed {
            reference: reference.to_string(),
            failure: PullFailure::Store(error.to_string()),
        })?;
        match (policy, local) {
            (PullPolicy::Never, None) => Err(PullError::NeverPull { image: image.to_owned() }),
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(local)) => Ok(local),
            // What a digest names cannot have changed.
            (PullPolicy::Always, Some(local)) if reference.digest.is_some() => Ok(local),
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => {
                self.pull_once(reference, auth).await
            }
        }
    }

    async fn pull_once(
        self: &Arc<Self>,
        reference: Reference,
        auth: Vec<RegistryAuth>,
    ) -> Result<Arc<LocalImage>, PullError> {
        let key = (reference.to_string(), auth.clone());
        let pull = {
            let mut in_flight = self.in_flight.lock();
            match in_flight.get(&key) {
                Some(pull) => pull.clone(),
                None => {
                    let (store, done) = (self.clone(), key.clone());
                    // In a task of its own, so that it goes on for the others when its first caller goes away.
                    let task = tokio::spawn(async move {
                        let result = store.pull(&reference, &auth).await;
                        store.tidy().await;
                        store.in_flight.lock().remove(&done);
                        result
                    });
                    let name = key.0.clone();
                    let pull = async move {
                        task.await.unwrap_or_else(|error| {
                            let failure = PullFailure::Store(format!("the pull ended early: {error}"));
                            Err(PullError::Failed { reference: name, failure })
                        })
                    };
                    let pull = pull.boxed().shared();
                    in_flight.insert(key, pull.clone());
                    pull
                }
            }
        };
        pull.await
    }

    async fn pull(&self, reference: &Reference, auth: &[RegistryAuth]) -> Result<Arc<LocalImage>, PullError> {
        let failed = |failure| PullError::Failed { reference: reference.to_string(), failure };
        let _permit =
            self.pulls.acquire().await.map_err(|error| failed(PullFailure::Store(error.to_string())))?;
        let plain_http =
            reference.is_loopback() || self.options.plain_http_registries.contains(&reference.registry);
        let attempts: Vec<Option<&RegistryAuth>> =
            if auth.is_empty() { vec![None] } else { auth.iter().map(Some).collect() };
        let mut last = None;
        for auth in attempts {
            let source = Registry::new(reference, auth, plain_http);
            match self.take(reference, &source, false).await {
                Ok(image) => return Ok(image),
                Err(failure) => last = Some(failure),
            }
        }
        Err(failed(last.unwrap_or_else(|| PullFailure::Store("no attempt was made".into()))))
    }

    /// Brings an image from a source into the store under a name.
    async fn take(
        &self,
        reference: &Reference,
        source: &dyn Source,
        pinned: bool,
    ) -> Result<Arc<LocalImage>, PullFailure> {
        // Shared with other pulls, in any process; keeps a collection from taking blobs that no index names yet.
        let _growing = self.lock_blobs(false)?;
        let (mut bytes, root) = source.root().await.map_err(PullFailure::Resolve)?;
        if let Ok(Some(here)) = self.lookup(reference)
            && here.digest == root
        {
            if pinned {
                self.pin(reference).map_err(PullFailure::store)?;
            }
            return Ok(here);
        }
        let mut blobs = vec![self.put(bytes.clone()).await?];
        let mut depth = 0;
        let (config, content) = loop {
            match manifest::parse(&bytes).map_err(PullFailure::Manifest)? {
                Manifest::Image { config, content } => break (config, content),
                Manifest::Index(chosen) => {
                    depth += 1;
                    if depth > INDEX_DEPTH_MAX {
                        let text = "an index of indexes of indexes".to_owned();
                        return Err(PullFailure::Manifest(manifest::ManifestError::Json(text)));
                    }
                    bytes = source.manifest(&chosen).await.map_err(PullFailure::Resolve)?;
                    blobs.push(self.put(bytes.clone()).await?);
                }
            }
        };
        let config = match config.filter(|config| config.size <= MANIFEST_BYTES_MAX) {
            Some(descriptor) => {
                blobs.push(descriptor.digest.clone());
                self.configuration(&descriptor, source).await?
            }
            None => ImageConfig::default(),
        };
        let (wasm_digest, size_bytes) = match content {
            Content::Wasm(layer) => {
                self.fetch(&layer, source).await?;
                (layer.digest, layer.size)
            }
            Content::Layers(layers) => self.unpack(&layers, source).await?,
        };
        self.check_wasm(&wasm_digest).await?;
        blobs.push(wasm_digest.clone());
        let record = Record {
            digest: root,
            wasm_digest,
            size_bytes,
            config,
            blobs,
            created_at: Timestamp::now(),
            pinned,
        };
        let name = reference.to_string();
        self.index.put(&name, record.clone()).map_err(PullFailure::store)?;
        self.local(&name, record).map(Arc::new).ok_or_else(|| PullFailure::Store("bad digest".into()))
    }

    /// What was pulled is imported as well.
    fn pin(&self, reference: &Reference) -> io::Result<()> {
        let name = reference.to_string();
        match self.index.get(&name)? {
            Some(record) if !record.pinned => self.index.put(&name, Record { pinned: true, ..record }),
            _ => Ok(()),
        }
    }

    async fn configuration(
        &self,
        descriptor: &Descriptor,
        source: &dyn Source,
    ) -> Result<ImageConfig, PullFailure> {
        self.fetch(descriptor, source).await?;
        let path = self.blob_path(&descriptor.digest)?;
        let bytes = tokio::fs::read(path).await.map_err(PullFailure::store)?;
        // An artifact's configuration may be anything, also nothing.
        if bytes.is_empty() || descriptor.media_type == manifest::WASM_CONFIG {
            return Ok(ImageConfig::default());
        }
        Ok(manifest::parse_config(&bytes).unwrap_or_default())
    }

    async fn fetch(&self, descriptor: &Descriptor, source: &dyn Source) -> Result<(), PullFailure> {
        if self.blobs.has(&descriptor.digest, Some(descriptor.size)) {
            return Ok(());
        }
        let mut writer =
            self.blobs.writer(&descriptor.digest, descriptor.size).await.map_err(PullFailure::Blob)?;
        source.blob(descriptor, &mut writer).await.map_err(PullFailure::Copy)?;
        writer.finish().await.map_err(PullFailure::Blob)
    }

    /// The module in a file system of layers, stored as a blob of its own; the layers are not kept.
    async fn unpack(
        &self,
        layers: &[manifest::Layer],
        source: &dyn Source,
    ) -> Result<(String, u64), PullFailure> {
        let mut paths = Vec::new();
        for layer in layers {
            self.fetch(&layer.descriptor, source).await?;
            paths.push((self.blob_path(&layer.descriptor.digest)?, layer.gzip));
        }
        let blobs = self.blobs.clone();
        let unpacked = blocking(move || {
            let bytes = unpack::module_of(&paths).map_err(|error| PullFailure::Unpack(error.to_string()))?;
            let digest = blobs.put(&bytes).map_err(PullFailure::store)?;
            Ok((digest, bytes.len() as u64))
        });
        self.leftovers.store(true, Ordering::Relaxed);
        unpacked.await?
    }

    /// Another pull may be reading the same layers, so that they are only collected when nothing is in progress.
    async fn tidy(self: &Arc<Self>) {
        if self.leftovers.swap(false, Ordering::Relaxed) {
            let store = self.clone();
            if let Ok(Err(error)) = blocking(move || store.collect()).await {
                tracing::warn!(%error, "cannot remove unneeded blobs");
            }
        }
    }

    async fn check_wasm(&self, wasm_digest: &str) -> Result<(), PullFailure> {
        let path = self.blob_path(wasm_digest)?;
        let head = blocking(move || {
            use std::io::Read;
            let mut head = [0; 4];
            File::open(path)?.read_exact(&mut head)?;
            Ok::<_, io::Error>(head)
        });
        match head.await? {
            Ok(head) if head == *b"\0asm" => Ok(()),
            _ => {
                Err(PullFailure::Unpack("its layer is not a Wasm file: it does not begin with \\0asm".into()))
            }
        }
    }

    async fn put(&self, bytes: Vec<u8>) -> Result<String, PullFailure> {
        let blobs = self.blobs.clone();
        blocking(move || blobs.put(&bytes)).await?.map_err(PullFailure::store)
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf, PullFailure> {
        self.blobs.path(digest).ok_or_else(|| PullFailure::Store(format!("{digest}: no sha256 digest")))
    }

    /// A blob that is here, whole. Blocking.
    pub(super) fn blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        let path = self.blobs.path(digest).ok_or(io::ErrorKind::InvalidInput)?;
        std::fs::read(path)
    }

    pub(super) fn has_blob(&self, digest: &str) -> bool {
        self.blobs.has(digest, None)
    }

    /// Imports a `.wasm` file, an OCI layout directory or an OCI archive under a name.
    pub async fn import(self: &Arc<Self>, path: &Path, tag: &str) -> Result<Arc<LocalImage>, ImportError> {
        let reference: Reference =
            tag.parse().map_err(|source| ImportError::Name { tag: tag.to_owned(), source })?;
        let (given, scratch) = (path.to_owned(), self.dir.clone());
        let opened = blocking(move || import::open(&given, &scratch))
            .await
            .map_err(|failure| ImportError::Failed { path: path.to_owned(), failure })??;
        let taken = self
            .take(&reference, opened.source(), true)
            .await
            .map_err(|failure| ImportError::Failed { path: path.to_owned(), failure });
        self.tidy().await;
        taken
    }

    /// The image under exactly this name, or with exactly this digest in its repository; None when it is not here
    /// or its module is gone.
    pub fn lookup(&self, reference: &Reference) -> io::Result<Option<Arc<LocalImage>>> {
        let name = reference.to_string();
        let mut found = self.index.get(&name)?;
        if let (None, Some(digest)) = (&found, &reference.digest) {
            let repository = format!("{}/{}", reference.registry, reference.repository);
            found = self.index.find(|other, record| {
                record.digest == *digest
                    && other.strip_prefix(&repository).is_some_and(|rest| rest.starts_with([':', '@']))
            })?;
        }
        Ok(found
            .filter(|record| self.blobs.has(&record.wasm_digest, Some(record.size_bytes)))
            .and_then(|record| self.local(&name, record))
            .map(Arc::new))
    }

    fn local(&self, reference: &str, record: Record) -> Option<LocalImage> {
        Some(LocalImage {
            reference: reference.to_owned(),
            wasm_path: self.blobs.path(&record.wasm_digest)?,
            digest: record.digest,
            wasm_digest: record.wasm_digest,
            size_bytes: record.size_bytes,
            config: record.config,
        })
    }

    /// By name.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let all =
            self.index.all().map_err(|source| StoreError::Io { step: "read the image index", source })?;
        Ok(all
            .into_iter()
            .map(|(reference, record)| Listed {
                reference,
                digest: record.digest,
                wasm_digest: record.wasm_digest,
                size_bytes: record.size_bytes,
                created_at: record.created_at,
                pinned: record.pinned,
            })
            .collect())
    }

    /// What the image is, without compiling it. Blocking.
    pub fn inspect(&self, image: &str) -> Result<(LocalImage, Inspection), StoreError> {
        let local = self.known(image)?;
        let bytes = std::fs::read(&local.wasm_path)
            .map_err(|source| StoreError::Io { step: "read the module", source })?;
        let inspection = inspect(&bytes)
            .map_err(|source| StoreError::Inspect { image: local.reference.clone(), source })?;
        Ok((local, inspection))
    }

    fn known(&self, image: &str) -> Result<LocalImage, StoreError> {
        let reference: Reference =
            image.parse().map_err(|source| StoreError::Name { image: image.to_owned(), source })?;
        self.lookup(&reference)
            .map_err(|source| StoreError::Io { step: "read the image index", source })?
            .map(|local| (*local).clone())
            .ok_or(StoreError::NotFound { image: image.to_owned() })
    }

    /// Forgets a name, and deletes what no other name needs. Containers that run it are not disturbed. Blocking.
    pub fn remove(&self, image: &str) -> Result<(), StoreError> {
        let failed = |step| move |source| StoreError::Io { step, source };
        let reference: Reference =
            image.parse().map_err(|source| StoreError::Name { image: image.to_owned(), source })?;
        let removed = self.index.remove(&reference.to_string()).map_err(failed("write the image index"))?;
        let Some(removed) = removed else {
            return Err(StoreError::NotFound { image: image.to_owned() });
        };
        let left = self.index.all().map_err(failed("read the image index"))?;
        if !left.values().any(|record| record.wasm_digest == removed.wasm_digest) {
            self.compiled.remove(&removed.wasm_digest).map_err(failed("remove compiled code"))?;
        }
        self.collect().map_err(failed("remove blobs"))
    }

    /// Deletes blobs that no image names; not while something is being pulled, which comes back to it later.
    fn collect(&self) -> io::Result<()> {
        let Ok(_alone) = self.lock_blobs(true) else {
            tracing::debug!("images are being pulled: blobs are collected another time");
            return Ok(());
        };
        let named: HashSet<String> =
            self.index.all()?.into_values().flat_map(|record| record.blobs).collect();
        let freed = self.blobs.keep_only(&named)?;
        tracing::debug!(freed, "collected blobs");
        Ok(())
    }

    /// Shared by those who add blobs, exclusive (and only tried for) by the one who deletes them.
    fn lock_blobs(&self, exclusive: bool) -> Result<File, PullFailure> {
        let open = File::options().create(true).truncate(false).write(true).open(self.dir.join(GC_LOCK));
        let file = open.map_err(PullFailure::store)?;
        if exclusive {
            file.try_lock().map_err(|error| PullFailure::Store(error.to_string()))?;
        } else {
            // A collection takes milliseconds.
            file.lock_shared().map_err(PullFailure::store)?;
        }
        Ok(file)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PullFailure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PullFailure::Store(format!("the work ended early: {error}")))
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}
